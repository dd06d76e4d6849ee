"""Pools on different fabrics: KV caches cross declared links only, and all that go one way share one pipe."""

from __future__ import annotations

import numpy as np
import pytest

from servecast.costmodels.base import TICKS_PER_SECOND
from servecast.errors import InputError
from servecast.sim.deploy import deploy
from servecast.traces.table import PrefixBlocks, RequestTable

EAST_WEST = [{"role": "prefill", "replicas": 2, "fabric": "east"}, {"role": "decode", "fabric": "west"}]
APART = {"topology": {"placement": "by_pool"}}
TOKEN_BYTES = 2 * 32 * 4096 * 2  # of Llama-7B


def between(*ends, bandwidth=2e9, latency=0.01):
    """`links` of a plan."""
    return {"links": {"fabrics": {key: {"bandwidth": bandwidth, "latency": latency} for key in ends}}}


def carried(result, name):
    return next(link.carried for link in result.services.network.links if link.name == name)


@pytest.mark.parametrize(
    "spec", [{}, {"direction": "push", "choose": "arrival"}, {"mode": "layer_wise"}, {"lease": 0.2}]
)
@pytest.mark.parametrize("burst", [False, True])
def test_engines_agree_and_every_byte_crosses_the_link(small, spec, burst):
    plan = small.plan(EAST_WEST, **between("east->west", bandwidth=1e9), disaggregation=spec)
    result = small.run_all(plan, small.table(80, 10.0, burst=burst, seed=2))
    handoff = result.services.handoff
    assert handoff.transfers >= 30
    assert carried(result, "east->west") == handoff.bytes_due == result.services.network.bytes_sent


def test_a_boundless_link_is_one_fabric(small):
    """The same two kinds of nodes, on one fabric or on two with a link that holds nobody up: the same rows."""
    table = small.table(80, 10.0)
    one = [{**pool, "fabric": "east"} for pool in EAST_WEST]
    rows = [
        small.rows(small.run(table, small.plan(pools, **APART, **links)))
        for pools, links in ((one, {}), (EAST_WEST, between("east->west", bandwidth=1e15, latency=0)))
    ]
    np.testing.assert_array_equal(*rows)


def test_a_lone_request_waits_for_the_latency_and_the_slower_link(small):
    """A message, the pull's latency, bytes at the link's rate, latency again; the network's own come on top."""
    plan = small.plan(EAST_WEST, **between("east->west", bandwidth=1e9, latency=0.02))
    table = small.table(1, 1.0, prompt=500, output=50, seed=3)
    c = small.run(table, plan).recorder.requests.columns()
    network = deploy(plan)[0].hardware.network
    assert network.bandwidth * deploy(plan)[0].hardware.achieved.link > 1e9
    expected = 2 * (0.02 + network.latency) + int(table.prompt_tokens[0]) * TOKEN_BYTES / 1e9
    assert c["transfer"][0] / TICKS_PER_SECOND == pytest.approx(expected, rel=1e-6)


def test_transfers_between_two_fabrics_share_their_link(small):
    """Two prompts of one length on two replicas at once: over one pipe both transfers take twice as long as alone,
    though each has adapters of its own at both ends."""
    pools = [{"role": "prefill", "replicas": 2, "fabric": "east"}, {"role": "decode", "replicas": 2, "fabric": "west"}]
    plan = small.plan(pools, **between("east->west", bandwidth=1e9, latency=0), router="round_robin",
                      disaggregation={"decode_router": "round_robin", "backlog": 1})  # fmt: skip

    def transfers(n):
        table = RequestTable(np.zeros(n), np.full(n, 500), np.full(n, 20))
        result = small.run(table, plan)
        small.check(result)
        return result.recorder.requests.columns()["transfer"] / TICKS_PER_SECOND

    alone, together = transfers(1), transfers(2)
    moving = 500 * TOKEN_BYTES / 1e9
    np.testing.assert_allclose(together - alone, moving, rtol=1e-3)


@pytest.mark.parametrize("mode", ["layer_wise", "chunk_wise"])
def test_what_hides_behind_prefills_takes_turns_on_the_link(small, mode):
    """Six replicas compute prompts at once, and each alone could fill the link meanwhile: together they get no more
    through than the link carries in the time of the run."""
    pools = [{**EAST_WEST[0], "replicas": 6, "max_num_batched_tokens": 128}, {**EAST_WEST[1], "replicas": 6}]
    links = between("east->west", bandwidth=1e9, latency=0)
    plan = small.plan(pools, **links, disaggregation={"mode": mode, "backlog": 1}, router="round_robin")
    result = small.run_all(plan, RequestTable(np.zeros(24), np.full(24, 600), np.full(24, 4)))
    sent = carried(result, "east->west")
    assert sent == 24 * 600 * TOKEN_BYTES
    assert sent <= 1e9 * result.duration / TICKS_PER_SECOND
    serial = small.run(result.table, small.plan(pools, **links, disaggregation={"backlog": 1}, router="round_robin"))
    assert result.recorder.requests.columns()["transfer"].sum() < serial.recorder.requests.columns()["transfer"].sum()


def test_requests_migrate_where_links_lead_both_ways(small):
    pools = [{"replicas": 2, "num_gpu_blocks_override": 90, "fabric": fabric} for fabric in ("east", "west")]
    keys = {"router": "llumnix", "rebalancer": {"name": "llumnix", "threshold": 8}, "engine": "vllm-0.6"}
    table = small.table(110, 16.0, output=70, burst=True, seed=3)
    two_way = small.run_all(small.plan(pools, **keys, **between("east->west", "west->east")), table)
    crossed = carried(two_way, "east->west") + carried(two_way, "west->east")
    assert 0 < crossed <= two_way.services.migrator.bytes_due
    apart, one_way = (
        small.run(table, small.plan(pools, **keys, **links)) for links in ({}, between("east->west"))
    )  # fmt: skip
    np.testing.assert_array_equal(small.rows(apart), small.rows(one_way))
    assert carried(one_way, "east->west") == 0


def test_a_hot_prefix_is_copied_over_the_link(small):
    """Round robin over a replica on each fabric: the second one copies the prefix from the first, if it can."""
    blocks = PrefixBlocks.of(16, "floor", [[*range(40), 1000 + i] for i in range(6)])
    table = RequestTable(np.arange(6) * 2.0, np.full(6, 656), np.full(6, 2), blocks=blocks)
    pools = [{"num_gpu_blocks_override": 500, "fabric": fabric} for fabric in ("east", "west")]
    keys = {"router": "round_robin", "tiers": {"peers": True}}
    linked = small.run_all(small.plan(pools, **keys, **between("east->west", "west->east")), table)
    assert linked.services.loader.copies == 1
    assert carried(linked, "east->west") == 640 * TOKEN_BYTES
    assert small.run(table, small.plan(pools, **keys)).services.loader.copies == 0


def test_a_mixed_pool_that_keeps_its_requests_needs_no_way_out(small):
    pools = [*EAST_WEST, {"role": "mixed", "fabric": "west"}, {"role": "decode", "fabric": "east"}]
    links = between("east->west")
    deploy(small.plan(pools, **links, disaggregation={"keep_mixed": True}))
    with pytest.raises(InputError, match="west->east"):
        deploy(small.plan(pools, **links))


def test_a_degraded_link_is_a_slower_one(small):
    """Half of the bandwidth from the first tick on, or a link of half the bandwidth: the same rows."""
    table = small.table(60, 10.0, seed=5)
    event = {"at": 0.0, "kind": "link", "replica": "east->west", "factor": 0.5}
    whole, half = (between("east->west", bandwidth=rate) for rate in (2e9, 1e9))
    keys = {"disaggregation": {"mode": "serial"}}
    degraded = small.run_all(small.plan(EAST_WEST, **whole, **keys, faults={"events": [event]}), table)
    calm = {**event, "replica": "pool0/0", "factor": 1.0}
    slower = small.run(table, small.plan(EAST_WEST, **half, **keys, faults={"events": [calm]}))
    np.testing.assert_array_equal(small.rows(degraded), small.rows(slower))
    with pytest.raises(InputError, match=r"faults.events\[0\].replica"):
        deploy(small.plan(EAST_WEST, **whole, faults={"events": [{**event, "kind": "crash"}]}))


NEAR = {"disaggregation": {"near": True}}
SPLIT = [{"role": role, "replicas": 2, "fabric": place} for place in ("east", "west") for role in ("prefill", "decode")]


def test_near_decodes_where_the_prompt_was_computed(small):
    """Two fabrics that do both need no link."""
    result = small.run_all(small.plan(SPLIT, **NEAR), small.table(80, 12.0, burst=True, seed=4))
    pool_of = {r.id: r.pool for r in result.services.replicas}
    c = result.recorder.requests.columns()
    assert result.services.handoff.transfers >= 60
    assert {pool_of[i] for i in c["replica"][c["output_tokens"] > 1].tolist()} == {"pool1", "pool3"}
    assert not any("->" in link.name for link in result.services.network.links)


def test_near_waits_for_those_who_come_back(small):
    """While all that decode on a fabric are down, what was computed there waits for one of them."""
    crash = {"at": 1.0, "kind": "crash", "duration": 30.0}
    events = [{**crash, "replica": f"pool1/{i}"} for i in range(2)]
    result = small.run_all(small.plan(SPLIT, **NEAR, faults={"events": events}), small.table(60, 12.0, seed=4))
    c = result.recorder.requests.columns()
    assert (c["end"] == 0).all()
    assert (c["transfer"] > 20 * TICKS_PER_SECOND).any()


def test_near_without_anybody_there_takes_the_link(small):
    pools = [{**EAST_WEST[0], "fabric": "north"}, *SPLIT]
    links = between("north->east", "north->west")
    result = small.run_all(small.plan(pools, **NEAR, **links), small.table(80, 12.0, seed=4))
    assert carried(result, "north->east") > 0 and carried(result, "north->west") > 0
    with pytest.raises(InputError, match="north->west"):
        deploy(small.plan(pools, **NEAR, **between("north->east")))


@pytest.mark.parametrize(
    "keys", [{"disaggregation": {"near": True, "choose": "arrival"}}, {**NEAR, "router": "mooncake"}]
)
def test_near_is_refused_where_the_decode_replica_comes_first(small, keys):
    with pytest.raises(InputError, match="near"):
        deploy(small.plan(SPLIT, **keys))


@pytest.mark.parametrize(
    ("links", "place", "words"),
    [
        ({}, "pools[1].fabric", "links: {fabrics: {east->west: {bandwidth: BYTES/S, latency: SECONDS}}}"),
        (between("west->east")["links"], "pools[1].fabric", "east->west"),
        (between("east->wst")["links"], "links.fabrics.east->wst", "did you mean 'west'"),
        (between("east->east")["links"], "links.fabrics.east->east", "from east to itself"),
        (between("east")["links"], "links.fabrics.east", "as in `east->west`"),
        (between("east->west", bandwidth=12.5)["links"], "links.fabrics.east->west.bandwidth", "12.5e9"),
        (between("east->west", bandwidth="100Gb/s")["links"], "links.fabrics.east->west.bandwidth", "number"),
        (between("east->west", latency=20)["links"], "links.fabrics.east->west.latency", "2 ms are 0.002"),
        ({"fabrics": {"east->west": {"bandwidth": 1e9}}}, "links.fabrics.east->west.latency", "missing"),
    ],
)  # fmt: skip
def test_what_no_link_can_be_is_refused_by_name(small, links, place, words):
    with pytest.raises(InputError) as error:
        deploy(small.plan(EAST_WEST, links=links))
    assert error.value.where == place and words in str(error.value)


def test_a_store_of_all_nodes_is_of_one_fabric(small):
    store = {"name": "store", "capacity": 0.5, "shared": True, "distributed": True}
    with pytest.raises(InputError, match=r"tiers.levels\[0\].distributed: true, with pools on 'east', 'west'"):
        deploy(small.plan(EAST_WEST, tiers={"levels": [store]}, **between("east->west")))
