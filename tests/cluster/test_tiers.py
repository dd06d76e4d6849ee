"""KV caches below the device: the same in every engine, bytes accounted, loads that pay, bad plans."""

from __future__ import annotations

import pytest

from servecast.configs.tiers import Tier
from servecast.costmodels.base import TICKS_PER_SECOND
from servecast.errors import InputError
from servecast.sim.cluster.links import Link
from servecast.sim.keep.level import Level
from servecast.sim.keep.tiers import Found
from servecast.sim.kv.store import TierStore
from servecast.sim.policies.registry import make_policy
from servecast.sim.report.programs import program_figures

HOST = {"name": "host", "capacity": 4.0}
SMALL = {"name": "host", "capacity": 0.2}
POOL = {"name": "pool", "capacity": 9, "shared": True, "bandwidth": 2e8}
TIERS = {
    "host": {"levels": [HOST]},
    "slow and serial": {"levels": [{**HOST, "bandwidth": 2e8, "latency": 0.002, "group": 4}], "overlap": "serial"},
    "shared pool below": {"levels": [SMALL, {**POOL, "bandwidth": 1e9}]},
    "fetched ahead": {"levels": [SMALL, POOL], "prefetch": 4},
    "written back": {
        "levels": [
            {"name": "host", "capacity": 0.1, "write": "back"},
            {"name": "ssd", "capacity": 9, "bandwidth": 1e9, "write": "back"},
        ]
    },
    "cachegen": {"levels": [{**HOST, "bandwidth": 3e8}], "load": {"name": "cachegen", "deadline": 0.05}},
}


@pytest.mark.parametrize("name", TIERS)
@pytest.mark.parametrize("keys", [{}, {"retention": {"name": "continuum", "enough": 5}}])
def test_all_engines_agree_with_tiers(small, programs, name, keys):
    plan = small.plan([{"num_gpu_blocks_override": 75, "replicas": 2}], tiers=TIERS[name], **keys)
    result = small.run_all(plan, programs())
    assert program_figures(result)["finished"] == 40
    assert result.services.loader.writes + result.services.loader.loads > 0


def test_clients_that_hang_up_while_their_kv_cache_is_loaded(small, programs):
    plan = small.plan(
        [{"num_gpu_blocks_override": 75}], tiers={"levels": [{**HOST, "bandwidth": 2e7}], "overlap": "serial"},
        clients={"timeout": 1.5, "retries": 2, "backoff": 0.1}, retention="continuum",
    )  # fmt: skip
    result = small.run_all(plan, programs(1))
    assert result.timeouts > 5


def test_clients_that_hang_up_when_theirs_has_been_loaded(small):
    """Back in the queue, and not in a program: the blocks that were loaded for them go with them."""
    plan = small.plan(
        [{"num_gpu_blocks_override": 75}], tiers={"levels": [{**HOST, "bandwidth": 2e9}], "overlap": "serial"},
        clients={"timeout": 2.0},
    )  # fmt: skip
    for seed in range(3):
        small.run_all(plan, small.table(80, 12.0, prompt=250, seed=seed, shared=4))


def test_a_fast_tier_saves_recomputation_and_shows_as_transfer(small, programs):
    def run(**keys):
        return small.run(programs(2), small.plan([{"num_gpu_blocks_override": 75}], **keys))

    without, with_ = run(), run(tiers=TIERS["host"])
    a, b = program_figures(without), program_figures(with_)
    assert b["recomputed_share"] < 0.3 * a["recomputed_share"]
    assert b["mean_jct_ms"] < a["mean_jct_ms"]
    assert with_.recorder.requests.columns()["transfer"].sum() > 0


def test_a_transfer_pays_for_each_of_its_calls(small, programs):
    """Latency x groups + bytes / bandwidth: one call a block, one for four, one for all."""
    links = (Link("up", 1), Link("down", 1))
    for group, calls in ((1, 9), (4, 3), (None, 1)):
        level = Level(Tier("host", 4.0, latency=0.25, group=group), TierStore(9), links, 1000.0)
        assert level.latency(9000) == calls * TICKS_PER_SECOND // 4

    def waited(**keys):
        tier = {**HOST, "latency": 0.1, **keys}
        plan = small.plan([{"num_gpu_blocks_override": 75}], tiers={"levels": [tier], "overlap": "serial"})
        return small.run(programs(2), plan).recorder.requests.columns()["transfer"].sum()

    assert waited() < waited(group=4) < waited(group=1)


def test_what_is_fetched_ahead_is_not_waited_for(small, programs):
    """Two slots, so that there is a queue: a pool's KV caches are in host memory when their turn comes, where that has
    room for a few of them; where it holds but one, what was fetched is gone again, and all the fetching in the way."""

    def waited(capacity, prefetch):
        tiers = {"levels": [{**HOST, "capacity": capacity}, {**POOL, "bandwidth": 1e9}], "prefetch": prefetch}
        plan = small.plan([{"num_gpu_blocks_override": 75, "max_num_seqs": 2}], tiers={**tiers, "overlap": "serial"})
        return small.run(programs(3), plan).recorder.requests.columns()["transfer"].sum()

    assert waited(1.0, 4) < 0.7 * waited(1.0, 0)
    assert waited(0.2, 4) > waited(0.2, 0)


def test_clients_that_hang_up_while_theirs_is_fetched(small, programs):
    plan = small.plan(
        [{"num_gpu_blocks_override": 75, "max_num_seqs": 4}], tiers={"levels": [SMALL, POOL], "prefetch": 8},
        clients={"timeout": 2.0, "retries": 2, "backoff": 0.1},
    )  # fmt: skip
    result = small.run_all(plan, programs(1))
    assert result.timeouts > 5 and result.services.loader.prefetcher.fetches > 5


def test_infercept_is_like_vllm_once_offloading_is_fast(small, programs):
    """The swap costs nothing, so nothing is ever preserved: the same run, to the tick."""
    fast = {"levels": [{**HOST, "bandwidth": 1e15}]}
    plans = [small.plan([{"num_gpu_blocks_override": 75}], tiers=fast, **k) for k in ({}, {"retention": "infercept"})]
    ours = [program_figures(small.run(programs(4), plan))["mean_jct_ms"] for plan in plans]
    assert ours[1] == ours[0]
    alone = program_figures(
        small.run(programs(4), small.plan([{"num_gpu_blocks_override": 75}], retention="infercept"))
    )
    assert abs(alone["mean_jct_ms"] - ours[0]) > 0.05 * ours[0]


def test_a_store_forgets_tails_first_and_hands_them_down():
    below = TierStore(3)
    store = TierStore(4, below)
    store.put([(1, 1), (2, 1), (3, 1)])
    store.put([(1, 1), (4, 2)])
    assert [store.blocks(key) for key in (1, 2, 3, 4)] == [1, 1, 0, 2]
    assert below.blocks(3) == 1 and store.used == 4
    store.touch([1, 2])
    store.put([(5, 1)])
    assert (store.blocks(4), store.blocks(2), below.blocks(4)) == (0, 1, 2)


def test_cachegen_streams_what_meets_the_deadline_and_computes_where_that_is_faster():
    """100 MB at 100 MB/s, deadline 0.5 s: the level of 3.7; on a link a hundred times slower the text is faster."""
    policy = make_policy("load", "cachegen", {"deadline": 0.5})

    def level(rate, prefill):
        return policy.compression(Found(2000, 0, 2100, 10**8, lambda size: size / rate, lambda n, c: prefill))

    assert [level(rate, 3.0) for rate in (1e9, 1e8, 5e7, 1e6)] == [1.0, 2.0, 4.3, 0.0]
    assert level(4e7, 3.0) == 4.3 and level(4e7, 0.5) == 0.0


@pytest.mark.parametrize(
    ("tiers", "keys", "parts"),
    [
        ({"levels": [{**HOST, "bandwidth": 0}]}, {}, ["tiers.levels[0].bandwidth", "0", "bytes/s above 0"]),
        ({"levels": [{**HOST, "capacity": -1}]}, {}, ["tiers.levels[0].capacity", "GiB above 0"]),
        ({"levels": []}, {}, ["tiers.levels", "at least one tier"]),
        ({"levels": [HOST, HOST]}, {}, ["tiers.levels", "two tiers of one name"]),
        ({"levels": [HOST], "prefetch": 2}, {}, ["tiers.prefetch", "with one tier", "a slower tier"]),
        ({"levels": [HOST], "prefetch": -2}, {}, ["tiers.prefetch", "0 or more"]),
        ({"levels": [{**HOST, "group": 0}]}, {}, ["tiers.levels[0].group", "at least 1 block"]),
        ({"levels": [{**HOST, "compression": 0.5}]}, {}, ["tiers.levels[0].compression", "at least 1"]),
        ({"levels": [{**HOST, "shared": True, "write": "back"}]}, {}, ["tiers.levels[0].write", "through"]),
        ({"levels": [HOST], "load": "cachgen"}, {}, ["tiers.load", "did you mean 'cachegen'?"]),
        ({"levels": [HOST], "load": {"name": "cachegen", "levels": [2, 1]}}, {}, ["tiers.load.levels", "ascending"]),
    ],
)
def test_bad_tiers(small, programs, tiers, keys, parts):
    with pytest.raises(InputError) as caught:
        small.run(programs(), small.plan([{}], tiers=tiers, **keys))
    for part in parts:
        assert part in str(caught.value)
