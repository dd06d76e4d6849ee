"""The fast halves of `make studies`: published orders and ratios at a few well chosen loads."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

STUDIES = Path(__file__).parents[2] / "bench" / "studies"
DATA = Path(os.environ.get("SERVECAST_DATA", "nowhere"))


def study(name):
    spec = importlib.util.spec_from_file_location(f"{name}_study", STUDIES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not (DATA / "distserve").is_dir(), reason="SERVECAST_DATA has no distserve folder")
def test_distserve_figure_1():
    """Rates per GPU in the published order, decode only > prefill only > 2P1D > colocated, and 2P1D at 2.1 times the
    colocated (+-25 %) with vLLM's kernels: each system keeps its limits at the lower rate and not at the higher."""
    figure = study("distserve")
    cost = figure.DistServeCost(DATA / "distserve" / "profiler-a100-80g.vllm.json", figure.MODEL)

    def between(name, low, high):
        gpus = figure.SYSTEMS[name][1]
        assert figure.attained(name, low * gpus, cost, 1500, seed=1), (name, low)
        assert not figure.attained(name, high * gpus, cost, 1500, seed=1), (name, high)

    between("colocated", 2.1, 2.35)
    between("2P1D", 2.35 * 2.1 * 0.85, 2.1 * 2.1 * 1.2)  # so the ratio is between 1.8 and 2.6
    between("prefill only", 2.1 * 2.1 * 1.2, 9.0)
    between("decode only", 9.0, 16.0)


@pytest.mark.skipif(not (DATA / "splitwise").is_dir(), reason="SERVECAST_DATA has no splitwise folder")
def test_splitwise_designs_at_equal_power():
    """On the authors' step times and at full scale the split A100s carry 2.15 times the rate of mixed ones (+-25 %):
    each keeps all nine SLOs at the lower rate only. The mixed design fails on TBT with TTFT to spare, the split one on
    TTFT with TBT to spare."""
    splitwise = study("splitwise")

    def found(system, rate):
        return splitwise.slowdowns(splitwise.ISO_POWER[system], rate, 15.0, seed=1)

    assert splitwise.keeps(found("Baseline-A100", 50)) and splitwise.keeps(found("AA", 105))
    mixed, split = found("Baseline-A100", 66), found("AA", 130)  # so the ratio is between 1.6 and 2.6
    assert mixed["tbt", 90] > 1.5 and mixed["ttft", 99] < 3
    assert split["ttft", 99] > 6 and split["tbt", 90] < 1.2


def test_llumnix_lengths_are_the_papers():
    """P50 and P99 of the generator: 38 / 1464, 32 / 4208, 55 / 5166 for S, M, L (Llumnix, table 1).

    Within 25 %: theirs is one draw of 10,000, scaled to its own mean; our draws of S have P99 from 1,680 to 1,780.
    """
    llumnix = study("llumnix")
    for mean, median, tail in ((128, 38, 1464), (256, 32, 4208), (512, 55, 5166)):
        drawn = llumnix.lengths(200_000, mean, llumnix.Stream(0, "test"))
        assert np.median(drawn) == pytest.approx(median, rel=0.25)
        assert np.percentile(drawn, 99) == pytest.approx(tail, rel=0.25)
        assert drawn.max() <= 6144


def test_llumnix_needs_load_to_be_of_use():
    """Prefill P99 like INFaaS++'s at low load; near saturation it wins, and most of the preemption loss is gone."""
    llumnix = study("llumnix")

    def both(rate, n):
        tables = [llumnix.workload("L-L", rate, n, seed) for seed in (0, 1)]
        rows = {}
        for name in ("INFaaS++", "Llumnix"):
            plan = llumnix.plan(*llumnix.SYSTEMS[name], replicas=8)
            rows[name] = [llumnix.figures(llumnix.run(table, plan)) for table in tables]
        return {name: {key: np.mean([r[key] for r in of]) for key in of[0]} for name, of in rows.items()}

    idle = both(0.6, 400)
    assert idle["INFaaS++"]["prefill_p99"] == pytest.approx(idle["Llumnix"]["prefill_p99"], rel=0.1)
    busy = both(1.75, 1000)
    assert busy["Llumnix"]["loss"] < 0.5 * busy["INFaaS++"]["loss"]
    assert busy["Llumnix"]["prefill"] < busy["INFaaS++"]["prefill"] / 1.5


def test_disaggregation_wins_and_loses_on_the_same_gpus():
    """Long prompts on four H100: with a tight limit on TPOT a split plan carries a rate that mixed replicas do not;
    with a loose one it is the other way round, for two prefill GPUs are then fewer than four that share the work."""
    choice = study("mixed_or_split")
    tight, loose = choice.CASES
    assert choice.attained(tight, "2P2D", 12, 400, 0) >= 0.9 > choice.attained(tight, "4 mixed", 12, 400, 0)
    assert choice.attained(loose, "4 mixed", 20, 400, 0) >= 0.9 > choice.attained(loose, "2P2D", 20, 400, 0)
    short = 2000  # KV blocks: five prompts an engine, and the split plan decodes on two engines only
    assert choice.attained(tight, "4 mixed", 7, 400, 0, short) >= 0.9 > choice.attained(tight, "2P2D", 7, 400, 0, short)


@pytest.mark.skipif(not (DATA / "traces" / "mooncake").is_dir(), reason="SERVECAST_DATA has no traces/mooncake folder")
def test_routing_mooncakes_trace():
    """Mean TTFT in the published order: predicted TTFT with copies, on local caches, the local cache, load, random
    (FAST'25: 3.07, 3.58, -, 5.27, 19.65 s; the conversation trace, eight prefill nodes, where queues begin)."""
    mooncake = study("mooncake")
    trace = mooncake.load(DATA / "traces" / "mooncake" / "conversation_trace.jsonl.gz").take(slice(0, 800))
    table = mooncake.scale_rate(trace, 1.4)
    means = [mooncake.mean_ttft(table, *arm)[0] for arm in mooncake.ARMS.values()]
    assert means == sorted(means)
    assert means[4] > 3 * means[1]
    assert means[0] == pytest.approx(means[1] * 3.07 / 3.58, rel=0.25)


def test_llumnix_priorities_help_a_few_and_cost_the_rest_little():
    """S-S with bursts at the authors' 26 requests/s: high-priority requests finish 1.2 to 1.5 times as fast, the others
    at most 13 % later (OSDI'24, figure 13); a tenth more for one short draw."""
    llumnix = study("llumnix")
    table = llumnix.workload("S-S", llumnix.PRIORITY_RATE, 1500, 0, 4, high=0.1)
    high = table.priority < 0
    headroom = {"name": "llumnix", "high_priority": -1}
    with_ = llumnix.run(table, llumnix.plan(headroom, headroom, pool={"queue": "priority"}))
    without = llumnix.run(table, llumnix.plan("llumnix", "llumnix"))
    gain = llumnix.figures(without, high)["e2e"] / llumnix.figures(with_, high)["e2e"]
    cost = llumnix.figures(with_, ~high)["e2e"] / llumnix.figures(without, ~high)["e2e"]
    assert 1.1 < gain < 1.65
    assert 0.95 < cost < 1.2
