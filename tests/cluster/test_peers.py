"""Prefixes copied between replicas, and a store in the memory of all nodes: in every engine, and only if worth it."""

from __future__ import annotations

import numpy as np
import pytest

from servecast.errors import InputError
from servecast.sim.keep.tiers import Found
from servecast.sim.policies.kvcache_balancing import KVCacheBalancing
from servecast.traces.table import PrefixBlocks, RequestTable

PEERS = {"peers": True, "load": "kvcache_balancing"}
STORE = {"name": "store", "capacity": 0.5, "shared": True, "distributed": True}
ROLES = [{"role": "prefill", "replicas": 3, "num_gpu_blocks_override": 90}, {"role": "decode", "replicas": 2}]
PLANS = {
    "copies": ([{"replicas": 3}], {"tiers": {"peers": True}, "topology": {"placement": "by_pool", "nic": "node"}}),
    "copies between prefill replicas": (ROLES, {"tiers": PEERS, "router": "mooncake"}),
    "store": (ROLES, {"tiers": {"levels": [STORE]}, "router": "predicted_ttft"}),
    "both": (ROLES, {"tiers": {**PEERS, "levels": [STORE], "overlap": "serial"}, "router": "mooncake"}),
}


def alike(n=40, every=1.0, shared=640) -> RequestTable:
    """Requests far apart, whose prompts begin with the same `shared` tokens."""
    blocks = PrefixBlocks.of(16, "floor", [[*range(shared // 16), 1000 + i] for i in range(n)])
    return RequestTable(np.arange(n) * every, np.full(n, shared + 16), np.full(n, 2), blocks=blocks)


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("seed", [0, 1])
def test_all_engines_agree(small, name, seed):
    pools, keys = PLANS[name]
    clients = {"timeout": 2.0, "retries": 1} if seed else {}
    result = small.run_all(small.plan(pools, clients=clients, **keys), small.table(80, 10.0, shared=4, seed=seed))
    loader = result.services.loader
    assert (loader.copies if "copies" in name else loader.loads) > 0


def test_a_hot_prefix_is_copied_once_to_each_replica(small):
    """Round robin over three replicas: the first computes the prefix, the two others copy it, and then all have it. A
    copy of 640 tokens of Llama-7B is 336 MB, less than 20 ms between two A10s of a node; computing them takes more."""
    pools = [{"replicas": 3, "num_gpu_blocks_override": 500}]
    plans = [small.plan(pools, router="round_robin", tiers=tiers) for tiers in (None, PEERS)]
    without, with_ = [small.run(alike(), plan) for plan in plans]
    small.check(with_)
    assert with_.services.loader.copies == 2
    assert with_.services.loader.loaded_tokens == 2 * 640
    a, b = (r.recorder.requests.columns() for r in (without, with_))
    before, after = a["first_token"] - a["arrival"], b["first_token"] - b["arrival"]
    assert np.all(after[1:3] < 0.8 * before[1:3])
    np.testing.assert_array_equal(after[3:], before[3:])


def test_the_conductor_weighs_a_copy_against_a_queue(small):
    """Many at once with one hot prefix: where it can come along some go to the other replica, all are done sooner."""
    n = 13
    rows = [[*range(40), *range(1000 * i, 1000 * i + 10)] for i in range(1, n + 1)]
    arrival = np.array([0.0] + [5.0] * (n - 1))
    table = RequestTable(arrival, np.full(n, 800), np.full(n, 2), blocks=PrefixBlocks.of(16, "floor", rows))

    def used(tiers):
        pools = [{"replicas": 2, "num_gpu_blocks_override": 800}]
        result = small.run(table, small.plan(pools, router="predicted_ttft", tiers=tiers))
        small.check(result)
        columns = result.recorder.requests.columns()
        return columns["cached_tokens"].sum(), columns["first_token"].max()

    (alone, late), (copied, soon) = used(None), used(PEERS)
    assert copied > alone and soon < late


def test_what_one_replica_has_computed_all_can_load_and_a_crash_takes_a_share(small):
    keys = {"router": "round_robin", "tiers": {"levels": [STORE]}}
    result = small.run(alike(n=30), small.plan([{"replicas": 3}], **keys))
    small.check(result)
    cached = result.recorder.requests.columns()["cached_tokens"]
    assert result.services.loader.loads == 2 and np.all(cached[1:] == 640)
    carried = {link.name: link.carried for link in result.services.network.links}
    assert carried["store up"] == sum(size for name, size in carried.items() if name.endswith("network in"))

    crash = {"events": [{"at": 10.5, "kind": "crash", "replica": "pool0/0", "duration": 0.1}]}
    hit = small.run_all(small.plan([{"replicas": 3}], faults=crash, **keys), alike(n=30))
    block = 16 * 524_288  # bytes, Llama-7B
    lost = len(range(0, 40, 3))  # blocks of the prefix in the part that went; somebody's next answer writes them again
    more = hit.services.loader.bytes_due - result.services.loader.bytes_due
    assert more == (lost + 40) * block  # and the replica loads the prefix when it is back


def test_the_rule_of_the_conductor():
    """Copied from a match `threshold` times as long as the own, and only where that is faster than computing."""

    def found(cached, tokens, load):
        return Found(tokens, cached, cached + tokens + 1, tokens, lambda _: load, lambda n, before: 0.001 * n)

    rule = KVCacheBalancing(threshold=2.0)
    assert rule.compression(found(0, 100, 0.05)) == 1
    assert rule.compression(found(100, 100, 0.05)) == 0  # twice, not more than twice
    assert rule.compression(found(100, 101, 0.05)) == 1
    assert rule.compression(found(0, 100, 0.2)) == 0


@pytest.mark.parametrize(
    ("tiers", "parts"),
    [
        ({"levels": [{**STORE, "shared": False}]}, ["tiers.levels[0].distributed", "shared: true"]),
        ({"levels": [{**STORE, "bandwidth": 1e9}]}, ["tiers.levels[0].distributed", "no bandwidth"]),
        (
            {"peers": True, "load": {"name": "kvcache_balancing", "threshold": 0.5}},
            ["tiers.load.threshold", "at least 1"],
        ),
        ({"peers": False}, ["tiers.levels", "or peers"]),
    ],
)
def test_bad_tiers(small, tiers, parts):
    with pytest.raises(InputError) as error:
        small.run(alike(2), small.plan([{"replicas": 2}], tiers=tiers))
    assert all(part in str(error.value) for part in parts)
