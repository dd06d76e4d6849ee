"""Who is served, in what share and in what order: tenants, predicted lengths, deadlines, cached prefixes."""

from __future__ import annotations

import numpy as np
import pytest

from servecast.configs.plan import plan_from
from servecast.errors import InputError
from servecast.sim.core import Limits, Request
from servecast.sim.deploy import deploy
from servecast.sim.kv.swapspace import SwapSpace
from servecast.sim.run import run
from servecast.traces.columns import Labels, PrefixBlocks
from servecast.traces.table import RequestTable

PROMPT, OUTPUT, BLOCKS = 64, 32, 60
INPUT_WEIGHT, OUTPUT_WEIGHT = 1, 2  # VTC-artifact's


def two_clients(n: int, rates: tuple[float, float]) -> RequestTable:
    """Clients `a` and `b`, each at its own constant rate, n requests in all, equal lengths."""
    times = [(i / rate, name) for name, rate in zip("ab", rates, strict=True) for i in range(n)]
    times = sorted(times)[:n]
    tenants = Labels.of([name for _, name in times])
    return RequestTable(np.array([t for t, _ in times]), np.full(n, PROMPT), np.full(n, OUTPUT), tenant=tenants)


def services(lab, queue: str, rates=(480.0, 160.0)):
    """(service of a, of b) whenever the engine decides and both of them wait."""
    setup = lab.Setup(blocks=BLOCKS, queue=queue)
    table = two_clients(400, rates)
    seen: list = []
    samples: list[tuple[float, float]] = []

    def spy(view, step):
        if {r.tenant for r in view.waiting} == {0, 1}:
            had = [0.0, 0.0]
            for r in seen:
                had[r.tenant] += INPUT_WEIGHT * r.prompt_tokens + OUTPUT_WEIGHT * r.tokens()
            samples.append((had[0], had[1]))
        seen.extend(r for r, _, _ in step.admit if r.scheduled < 0)

    lab.simulate(setup, table, "leap", spy=spy)
    return np.array(samples)


def test_vtc_keeps_the_gap_of_two_waiting_clients_within_its_theorem(lab):
    """Sheng et al., OSDI'24: 2 max(w_in x longest prompt, w_out x tokens in the cache). FCFS splits by rate, 3 : 1."""
    bound = 2 * max(INPUT_WEIGHT * PROMPT, OUTPUT_WEIGHT * BLOCKS * 16)
    fair = services(lab, "vtc")
    gap = fair[:, 0] - fair[:, 1]
    assert len(gap) > 50 and fair[-1].min() > 2 * bound  # long enough to mean something
    assert gap.max() - gap.min() <= bound
    by_rate = services(lab, "fcfs")
    assert np.ptp(by_rate[:, 0] - by_rate[:, 1]) > 2 * bound
    assert by_rate[-1, 0] / by_rate[-1, 1] == pytest.approx(3, rel=0.1)


POOL = {
    "name": "p", "hardware": "h100", "max_model_len": 4096, "enable_chunked_prefill": True,
    "num_gpu_blocks_override": 300,
}  # fmt: skip


def plan(**pool):
    return plan_from({"model": "llama-3.1-8b", "engine": "vllm-0.6", "pools": [{**POOL, **pool}]})


def test_weighted_vtc_serves_by_weight():
    """Both overload the engine alike; of what has been finished when half is, the shares are the weights', 3 : 1.

    The tolerance is the theorem's gap, divided by the weights, against the service so far.
    """
    table = two_clients(1200, (400.0, 400.0))
    ended: list[int] = []
    run(table, plan(queue={"name": "vtc", "weights": {"a": 3, "b": 1}}), on_end=lambda r, e, t: ended.append(r.tenant))
    half = ended[: len(ended) // 2]
    assert half.count(0) / half.count(1) == pytest.approx(3, rel=0.15)


def test_a_tenant_without_a_weight_is_refused():
    with pytest.raises(InputError, match=r"weights\.b: missing"):
        run(two_clients(10, (1.0, 1.0)), plan(queue={"name": "vtc", "weights": {"a": 1}}))


def test_an_idle_client_earns_nothing(lab):
    """`b` comes when `a` has had much; it is served at once, but not until it has caught up."""
    n = 300
    arrival = np.concatenate([np.linspace(0, 1, n), np.linspace(1.0, 1.2, 60)])
    order = np.argsort(arrival, kind="stable")
    tenants = np.array(["a"] * n + ["b"] * 60)[order]
    table = RequestTable(arrival[order], np.full(n + 60, PROMPT), np.full(n + 60, OUTPUT), tenant=Labels.of(tenants))
    setup = lab.Setup(blocks=BLOCKS, queue="vtc")
    outcome = lab.simulate(setup, table, "leap")
    code = table.tenant.codes
    finish = outcome.column("ended")
    b_done = finish[code == 1].max()
    a_meanwhile = np.sum(
        (finish[code == 0] > arrival[order][code == 1].min() * lab.TICKS) & (finish[code == 0] <= b_done)
    )
    assert a_meanwhile >= 40  # about as many as b's 60, not none


def heavy_tailed(n=600, rate=90.0):
    """Mostly short answers and some of ten times the length."""
    output = np.where(np.arange(n) % 12 == 0, 200, 20)
    return RequestTable(np.arange(n) / rate, np.full(n, PROMPT), output)


def test_ltr_serves_short_ones_first_and_its_guard_bounds_starvation(lab):
    """LTR ranks by predicted length, running ones too: the mean falls; the guard bounds what the long ones pay."""

    def latencies(**setup):
        outcome = lab.simulate(lab.Setup(blocks=100, max_num_seqs=8, **setup), heavy_tailed(), "leap")
        return (outcome.column("ended") - outcome.column("arrival")) / lab.TICKS

    fcfs = latencies()
    ranked = latencies(batch="preemptive", queue="sjf")
    guarded = latencies(batch="preemptive", queue="sjf", batch_parameters={"patience": 400, "boost": 200})
    assert ranked.mean() < 0.6 * fcfs.mean()
    assert ranked.max() > 2 * fcfs.max()
    assert guarded.max() < 0.9 * ranked.max()


def test_deadlines_shape_the_chunks(lab):
    """Niyama (ASPLOS'26): prompts take what the decodes' deadlines leave. Near saturation a fixed large chunk makes
    the decodes late, a fixed small one the prompts; it has fewer late answers than either."""
    n = 100
    table = RequestTable(np.arange(n) / 5, np.full(n, 6000), np.full(n, 150))

    def late(**pool):
        rows = run(table, plan(max_model_len=8192, num_gpu_blocks_override=20000, max_num_seqs=128, **pool)).recorder
        times = rows.requests.columns()
        return np.mean(times["last_token"] - times["arrival"] > (1 + 149 * 0.025) * lab.TICKS)

    niyama = late(batch={"name": "niyama", "ttft": [1], "tbt": [0.025]}, max_num_batched_tokens=2552)
    assert niyama < 0.6 * late(batch="sarathi", max_num_batched_tokens=2552)
    assert niyama < 0.6 * late(batch="sarathi", max_num_batched_tokens=256)


def test_the_longest_cached_prefix_first(lab):
    """Conversations take turns and the cache holds few of them: served one after the other, more of it is found."""
    groups, turns, length = 8, 20, 512
    ids = [[g * 100 + i for i in range(length // 16 - 1)] for _ in range(turns) for g in range(groups)]
    n = groups * turns
    table = RequestTable(
        np.zeros(n), np.full(n, length), np.full(n, 4), blocks=PrefixBlocks.of(16, "floor", ids)
    )  # fmt: skip

    def found(queue):
        setup = lab.Setup(queue=queue, blocks=100, max_num_seqs=2, max_model_len=1024, caching="runs")
        return lab.simulate(setup, table, "leap").column("cached_tokens").sum()

    assert found("longest_prefix") > 3 * found("fcfs")


def test_longest_prefix_is_the_oracles_too(lab):
    n = 120
    ids = [[(i * 7 % 5) * 100 + j for j in range(6)] for i in range(n)]
    table = RequestTable(
        np.arange(n) / 80, np.full(n, 100), 1 + np.arange(n) % 40, blocks=PrefixBlocks.of(16, "floor", ids)
    )
    setup = lab.Setup(queue="longest_prefix", blocks=70, caching="runs")
    outcomes = [lab.simulate(setup, table, engine) for engine in ("leap", "step", "oracle")]
    for other in outcomes[1:]:
        assert outcomes[0].iterations == other.iterations
        np.testing.assert_array_equal(outcomes[0].rows, other.rows)


def test_changing_priorities_cost_context_switches(lab):
    """FastSwitch's premise: the more often priorities change, the more is swapped and the later tokens come."""
    table = lab.workload(150, 80.0, 100, 80, seed=5)

    def switches(period):
        setup = lab.Setup(
            batch="preemptive", queue="drawn_priority", queue_parameters={"period": period}, kv="swap",
            host_blocks=400, blocks=80,
        )  # fmt: skip
        outcome = lab.simulate(setup, table, "leap")
        return outcome.column("preemptions").sum()

    assert switches(5) > 1.5 * switches(25) > 0


def swapping(**kv):
    """A plan of one A10 whose requests change places every ten iterations."""
    pool = {
        "name": "p", "hardware": "a10", "max_model_len": 2048, "num_gpu_blocks_override": 160, "swap_space": 20,
        "batch": "preemptive", "queue": {"name": "drawn_priority", "period": 10}, "kv": {"name": "swap", **kv},
    }  # fmt: skip
    return plan_from({"model": "llama-3-8b", "engine": "vllm-0.12", "pools": [pool]})


def test_each_part_of_fastswitch_makes_context_switches_cheaper():
    """Groups save calls, kept copies save what is on the host already, overlap hides what is left behind iterations."""
    table = two_clients(80, (40.0, 40.0))
    systems = ({}, {"group": 16}, {"group": 16, "keep": True}, {"group": 16, "keep": True, "overlap": True})
    runs = [run(table, swapping(**kv)) for kv in systems]
    durations = [result.duration for result in runs]
    assert durations == sorted(durations, reverse=True) and len(set(durations)) == 4
    for result in runs:
        moved = result.engines[0].swaps
        assert moved["blocks_out"] + moved["blocks_kept"] == moved["blocks_back"] > 200  # everybody has come back
    assert runs[0].engines[0].swaps["blocks_kept"] == 0
    assert runs[2].engines[0].swaps["blocks_kept"] > 0.1 * runs[2].engines[0].swaps["blocks_out"]


def test_a_copy_takes_latency_by_groups_and_bytes_by_bandwidth():
    """A block of Llama-3-8B is 2 MB in 32 tensors of keys and 32 of values: 40 blocks in 40 x 64 calls, 3 x 64 (groups
    of 16, 16 and 8) or 64."""
    (deployment,) = deploy(swapping())
    host, share = deployment.hardware.host, deployment.hardware.achieved.link
    block = 16 * 2 * 32 * 8 * 128 * 2
    for group, calls in ((1, 40), (16, 3), (100, 1)):
        (deployment,) = deploy(swapping(group=group))
        space = deployment.swap_space(deployment.batch_policy().kv)
        expected = 64 * calls * host.latency + 40 * block / (host.bandwidth * share)
        assert space.ticks(40) / 2**36 == pytest.approx(expected, rel=1e-6)


def test_a_copy_that_is_kept_is_not_made_again_and_makes_room():
    """Blocks of 16: 50 tokens fill three, which stay on the host; the fourth changes and goes out again."""
    limits = Limits(8, 512, 512)
    space = SwapSpace(10, keeps=True)

    def out(request):
        return space.take_in(request), space.out, space.spared

    a, b = Request(0, 0, 0, 10), Request(1, 1, 0, 10)
    a.blocks, a.computed = 4, 50
    assert out(a) == (True, 4, 0)
    space.give_back(a, limits)
    a.blocks, a.computed = 5, 70
    assert out(a) == (True, 6, 3)  # two new ones
    space.give_back(a, limits)
    b.blocks, b.computed = 8, 128
    assert out(b) == (True, 14, 3) and space.free == 2
    assert out(a) == (False, 14, 3)  # no room; and b's took the place of its copies
    space.give_back(b, limits)
    assert out(a) == (True, 19, 3) and space.free == 5
    space.let_go(a)
    space.forget(b)
    b.blocks = 8
    assert out(b) == (True, 27, 3)


def test_bad_parameters_are_refused():
    from servecast.sim.policies.registry import make_policy

    for kind, name, parameters, words in (
        ("queue", "vtc", {"weights": {"a": 0}}, "above 0"),
        ("queue", "vtc", {"output_weight": -1}, "0 or more"),
        ("queue", "longest_prefix", {"longest_queue": 0}, "at least 1"),
        ("queue", "drawn_priority", {"period": 0}, "at least 1"),
        ("batch", "preemptive", {"patience": -1}, "0 or more"),
        ("kv", "swap", {"group": 0}, "at least 1 block"),
        ("batch", "niyama", {"tbt": []}, "one or more"),
        ("batch", "niyama", {"margin": 0.5}, "at least 1"),
    ):
        with pytest.raises(InputError, match=words):
            make_policy(kind, name, parameters)
