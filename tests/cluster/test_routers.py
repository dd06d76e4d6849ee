"""Routers that look at caches, sessions and predictions, two-pool routers, and who is let in."""

from __future__ import annotations

import numpy as np
import pytest

from servecast.errors import InputError
from servecast.sim.deploy import deploy
from servecast.sim.records import End
from servecast.sim.report.report import build_report
from servecast.traces.columns import Labels
from servecast.traces.table import RequestTable

ROUTERS = {
    "session home": "session_home",
    "prefix affinity": {"name": "prefix_affinity", "min_share": 0.1},
    "sglang": {"name": "sglang", "balance_abs_threshold": 4},
    "dynamo": "dynamo",
    "dynamo, warm": {"name": "dynamo", "temperature": 0.5},
    "predicted ttft": "predicted_ttft",
    "infaas": "infaas",
    "llumnix": {"name": "llumnix", "queued": "head"},
}
TWO_POOLS = {
    "mooncake": ("mooncake", [{"role": "prefill", "replicas": 2}, {"role": "decode", "replicas": 2}]),
    "mooncake rejects": (
        {"name": "mooncake", "ttft": 0.06, "tbt": 0.2},
        [{"role": "prefill", "replicas": 1}, {"role": "decode", "replicas": 2}],
    ),
    "splitwise": (
        {"name": "splitwise", "prompt_pool": "pool0", "token_pool": "pool1", "max_pending": 400},
        [{"replicas": 2}, {"replicas": 2}],
    ),
}


def sessions(small, n=120, **keys):
    table = small.table(n, 10.0, shared=8, **keys)
    family = [f"s{row[0] // 1000}" if len(row) else None for row in map(table.blocks.row, range(n))]
    return RequestTable(
        table.arrival, table.prompt_tokens, table.output_tokens, session=Labels.of(family), tenant=table.tenant,
        priority=table.priority, blocks=table.blocks,
    )  # fmt: skip


@pytest.mark.parametrize("name", ROUTERS)
@pytest.mark.parametrize("view_age", [0.0, 0.4])
def test_routers_decide_the_same_in_all_engines(small, name, view_age):
    choice = ROUTERS[name] if isinstance(ROUTERS[name], dict) else {"name": ROUTERS[name]}
    small.run_all(small.plan([{"replicas": 3}], router={**choice, "view_age": view_age}), sessions(small))


@pytest.mark.parametrize("name", ["prefix affinity", "dynamo", "predicted ttft"])
def test_a_router_sees_the_cache_in_the_middle_of_a_leap(small, name):
    """Small chunks and little memory: leaps cover prompts and evict prefixes while requests are routed by them."""
    choice = ROUTERS[name] if isinstance(ROUTERS[name], dict) else {"name": ROUTERS[name]}
    pool = {"replicas": 3, "max_num_batched_tokens": 64, "num_gpu_blocks_override": 90}
    small.run_all(small.plan([pool], router=choice), sessions(small, seed=7))


@pytest.mark.parametrize("name", TWO_POOLS)
def test_two_pool_routers_decide_the_same_in_all_engines(small, name):
    router, pools = TWO_POOLS[name]
    result = small.run_all(small.plan(pools, router=router), sessions(small))
    ends = result.recorder.requests.columns()["end"]
    assert (ends == End.REJECTED).any() == (name == "mooncake rejects")
    assert result.services.handoff.transfers > 20


def test_routing_by_cache_finds_more_than_routing_by_chance(small):
    """Mooncake's order (FAST'25): predicted TTFT, which sees cache and queue, before cache alone and before random."""
    table = sessions(small, 400, seed=5)

    def cached(router):
        pool = {"replicas": 4, "num_gpu_blocks_override": 120}
        result = small.run(table, small.plan([pool], router=router))
        return result.recorder.requests.columns()["cached_tokens"].sum()

    assert min(cached("prefix_affinity"), cached("session_home"), cached("dynamo")) > 1.2 * cached("random")


def test_a_two_pool_router_must_know_the_pools(small):
    router = {"name": "splitwise", "prompt_pool": "pool0", "token_pool": "pool2"}
    with pytest.raises(InputError, match=r"router\.token_pool"):
        deploy(small.plan([{}, {}], router=router))


def test_a_borrowed_machine_helps_a_rush_of_prompts(small):
    """Splitwise with one prompt machine and a rush of prompts: without borrowing they queue for it."""
    table = small.table(60, 30.0, prompt=400, output=30)
    pools = [{"replicas": 1}, {"replicas": 3}]

    def ttft(max_pending):
        router = {"name": "splitwise", "prompt_pool": "pool0", "token_pool": "pool1", "max_pending": max_pending}
        result = small.run(table, small.plan(pools, router=router))
        small.check(result)
        return build_report(result)["p99_ttft_ms"]

    assert ttft(600) < 0.75 * ttft(10**9)


@pytest.mark.parametrize("burst", [False, True])
def test_splitwise_machines_decide_the_same_in_all_engines(small, burst):
    """Its machine scheduler on its pools, with prompts beyond the budget of a batch and little memory."""
    router, pools = TWO_POOLS["splitwise"]
    pools = [{**pool, "max_num_batched_tokens": 128, "num_gpu_blocks_override": 90} for pool in pools]
    for keys in ({"router": router}, {"router": {"name": "least_outstanding", "by": "pending"}}):
        plan = small.plan(pools, engine="splitwise-sim", **keys)
        small.run_all(plan, small.table(120, 14.0, output=70, burst=burst))


def test_decodes_pause_for_prompts_but_not_for_ever(small):
    """One machine, prompts without end: decodes run at least every fifth step, or as often as `max_pauses` says."""
    table = small.table(150, 60.0, prompt=400, output=20)

    def decode_p99(max_pauses):
        pool = {"max_num_batched_tokens": 128, "num_gpu_blocks_override": 4000, "max_num_seqs": 128}
        pool["batch"] = {"name": "splitwise", "max_pauses": max_pauses}
        result = small.run(table, small.plan([pool], engine="splitwise-sim"))
        small.check(result)
        return build_report(result)["p99_itl_ms"]

    assert decode_p99(1) < decode_p99(4) < decode_p99(1000) / 2


def test_mixed_hardware_is_used_in_proportion(small):
    """An A100 beside an A10: predicted TTFT sends it more, and waits less than turns do."""
    pools = [{"hardware": "a10"}, {"hardware": "a100-80gb"}]
    table = small.table(200, 14.0, prompt=400, output=8)

    def outcome(router):
        result = small.run(table, small.plan(pools, router=router))
        c = result.recorder.requests.columns()
        return build_report(result)["mean_ttft_ms"], (c["replica"] == 1).mean()

    predicted, turns = outcome("predicted_ttft"), outcome("round_robin")
    assert predicted[0] < turns[0] and predicted[1] > 0.6 and turns[1] == pytest.approx(0.5, abs=0.01)


def rejected(small, admission, **keys):
    table = small.table(200, 40.0, **keys)
    result = small.run_all(small.plan([{"replicas": 2}], admission=admission), table)
    ends = result.recorder.requests.columns()["end"][np.argsort(result.recorder.requests.columns()["index"])]
    return table, ends == End.REJECTED


def test_shedding_keeps_queues_short(small):
    _, few = rejected(small, {"name": "max_waiting", "limit": 20})
    _, many = rejected(small, {"name": "max_waiting", "limit": 2})
    assert 0 < few.sum() < many.sum()


def test_low_priority_is_shed_first(small):
    table, out = rejected(small, {"name": "shed_low_priority", "free_share": 0.5})
    assert out.any() and np.all(table.priority[out] > 0)


def test_a_tenant_gets_its_rate_and_no_more(small):
    """A bucket of 500 tokens that fills at 300 a second: over the run a tenant passes at most burst + rate x time."""
    table, out = rejected(small, {"name": "tenant_rate", "rate": 300, "burst": 500})
    span = float(table.arrival[-1])
    for code in range(3):
        mine = (table.tenant.codes == code) & ~out
        passed = np.minimum(table.prompt_tokens[mine], 500).sum()
        assert passed <= 500 + 300 * span + 1
        assert passed > 0.5 * min(500 + 300 * span, table.prompt_tokens[table.tenant.codes == code].sum())
