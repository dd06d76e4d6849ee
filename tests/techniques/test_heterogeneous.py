"""Prompts and decodes on GPUs of different kinds: the same service for less money."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest

import servecast
from servecast.configs.plan import load_plan, plan_from
from servecast.configs.strict import read_mapping
from servecast.traces.load import load
from servecast.traces.table import RequestTable

ROOT = Path(servecast.__file__).parent
PLAN = ROOT / "configs" / "plans" / "techniques" / "heterogeneous.yaml"


def figures(bench, plan, prompt: int, output: int, rate: float) -> tuple[float, float, float]:
    """USD for a million output tokens, mean TTFT and P99 TPOT in ms."""
    n = 150
    table = RequestTable(np.arange(n) / rate, np.full(n, prompt), np.full(n, output))
    report = bench.report(bench.run(table, plan))
    return report["cost_per_1m_output_tokens"], report["mean_ttft_ms"], report["p99_tpot_ms"]


@pytest.mark.parametrize(("prompt", "output", "rate"), [(2000, 300, 12.0), (500, 500, 10.0), (6000, 100, 5.0)])
def test_cheap_bandwidth_for_decodes_serves_as_well_for_less(bench, prompt, output, rate) -> None:
    """An H20 has more bandwidth than an H100 and a seventh of its arithmetic, for $4.63 an hour instead of 11.06
    (Lamina): decodes on it cost less a token, below 25 ms, and prompts do not notice."""
    mixed = load_plan(str(PLAN))
    data = read_mapping(PLAN)
    data["pools"][1] |= {"hardware": "h100", "price_per_hour": 11.06}
    cheap, ttft, tpot = figures(bench, mixed, prompt, output, rate)
    dear, whole_ttft, _ = figures(bench, plan_from(data), prompt, output, rate)
    assert cheap < 0.85 * dear
    assert ttft == pytest.approx(whole_ttft, rel=0.01) and tpot < 25


def test_the_three_engines_agree(bench) -> None:
    bench.same(load_plan(str(PLAN)), bench.workload(n=30))


def test_stages_of_a_program_on_gpus_of_their_own(bench) -> None:
    """A large model plans and reviews on H100, a small one works on two L40S: as many deadlines are kept as with an
    H100 for the small one, for less; the large model alone, for everything, keeps fewer."""
    table = load(ROOT / "traces" / "samples" / "planner-workers.yaml")
    plan = read_mapping(ROOT / "configs" / "plans" / "techniques" / "agentic-stages.yaml")
    same_gpu, one_model = deepcopy(plan), deepcopy(plan)
    same_gpu["pools"][1] |= {"hardware": "h100", "replicas": 1}
    del one_model["pools"][1], one_model["pools"][0]["serves"]
    older, newer, alone = (bench.report(bench.run(table, plan_from(p))) for p in (plan, same_gpu, one_model))
    kept = [report["programs"]["deadlines_met_share"] for report in (older, newer, alone)]
    assert older["usd_per_hour"] < 0.95 * newer["usd_per_hour"]
    assert kept[0] > 0.98 * kept[1] > 0.95
    assert kept[2] < kept[0]
