"""Pools whose GPU clock is locked: exact leaps, energy in the report, a clock for each phase, and plans refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from servecast.configs.plan import load_plan, plan_from
from servecast.errors import InputError
from servecast.sim.deploy import deploy
from servecast.sim.report.report import build_report
from servecast.sim.run import Run, run
from servecast.traces.table import RequestTable

TRACE = RequestTable(np.arange(60) * 0.1, np.arange(60) % 7 * 300 + 100, np.arange(60) % 11 * 20 + 5)
PROMPTS = RequestTable(np.arange(12) * 1.0, np.full(12, 8000), np.full(12, 2))


def plan(*pools: dict[str, Any], **settings: Any) -> Any:
    common = {"hardware": "h100", "max_model_len": 16384}
    named = [{"name": f"p{i}", **common, **pool} for i, pool in enumerate(pools)]
    return plan_from({"model": "llama-3.1-8b", "engine": "vllm-0.19", "pools": named, **settings})


def pools(result: Run) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = build_report(result)["simulation"]["pools"]
    return found


def joules(result: Run) -> float:
    return sum(pool["energy"]["active_joules"] + pool["energy"]["idle_joules"] for pool in pools(result))


def columns(result: Run) -> dict[str, np.ndarray]:
    return result.recorder.requests.columns()


@pytest.mark.parametrize("shape", [{}, {"pipeline_parallel_size": 2}, {"tensor_parallel_size": 2}])
def test_leaps_are_steps(shape: dict[str, int]) -> None:
    locked = plan({"gpu_clock_mhz": 700, **shape})
    leap, step = (run(TRACE, locked, step_by_step=way) for way in (False, True))
    for name, column in columns(leap).items():
        np.testing.assert_array_equal(column, columns(step)[name])
    assert leap.engines[0].meters == step.engines[0].meters and leap.engines[0].meters["slowed"] > 0


def test_the_clock_of_the_data_sheet_is_no_lock() -> None:
    """As a card without a lock is taken to run; the reports differ in nothing but that the lock is named."""
    free, locked = run(TRACE, plan({})), run(TRACE, plan({"gpu_clock_mhz": 1830}))
    for name, column in columns(free).items():
        np.testing.assert_array_equal(column, columns(locked)[name])
    assert joules(locked) == pytest.approx(joules(free))
    assert pools(locked)[0]["cost_model"].pop("gpu_clock_mhz") == 1830
    assert "gpu_clock_mhz" not in pools(free)[0]["cost_model"] and not free.engines[0].meters


def test_prompts_have_a_clock_of_least_energy_and_decodes_go_on_gaining() -> None:
    """Prompts take longer at a lower clock, so idling, which a faster GPU does as well, costs nothing more: what counts
    is the energy of the work. Decodes of a small batch take no longer, and less energy the lower the clock."""
    runs = {mhz: run(PROMPTS, plan({"gpu_clock_mhz": mhz})) for mhz in (500, 1100, 1830)}
    active = {mhz: pools(result)[0]["energy"]["active_joules"] for mhz, result in runs.items()}
    assert active[1100] < active[500] and active[1100] < active[1830]
    few = RequestTable(np.arange(8) * 0.01, np.full(8, 16), np.full(8, 400))
    spent = [run(few, plan({"gpu_clock_mhz": mhz})) for mhz in (500, 1100, 1830)]
    assert [joules(result) for result in spent] == sorted(map(joules, spent))
    assert spent[0].duration < 1.01 * spent[-1].duration


def test_a_clock_for_each_phase() -> None:
    """Prefill at full clock and decode at a low one keep first tokens as fast as at full clock, where one low clock for
    both does not, and save energy: what GreenLLM and VoltanaLLM do. It is a key of each pool."""
    low = load_plan("techniques/clock-per-phase")
    prefill, decode = low.pools

    def at(*clocks: int | None) -> Run:
        locked = [replace(pool, gpu_clock_mhz=mhz) for pool, mhz in zip((prefill, decode), clocks, strict=True)]
        return run(TRACE, replace(low, pools=tuple(locked)))

    fast, split, slow = at(None, None), run(TRACE, low), at(900, 900)
    first, tokens = ([build_report(r)[key] for r in (fast, split, slow)] for key in ("p99_ttft_ms", "p99_tpot_ms"))
    assert first[1] <= first[0] * 1.001 and first[2] > first[0] * 1.3
    assert tokens[1] <= tokens[0] * 1.05
    assert joules(split) < 0.97 * joules(fast)


def test_reports_say_what_power_is() -> None:
    assert pools(run(TRACE, plan({"gpu_clock_mhz": 1000})))[0]["energy"]["label"] == "assumed power"


@pytest.mark.parametrize(
    ("pool", "says"),
    [
        ({"gpu_clock_mhz": 2500}, r"pools\[0\].gpu_clock_mhz: 2500 MHz; expected 345 to 1980 MHz on h100"),
        ({"gpu_clock_mhz": 1200, "hardware": "b200"}, r"pools\[0\].gpu_clock_mhz: .* nothing is known of the clocks"),
        ({"gpu_clock_mhz": "fast"}, r"pools\[0\].gpu_clock_mhz: 'fast' \(text\); expected a whole number"),
        ({"gpu_clock": 1200}, r"pools\[0\].gpu_clock: unknown key.*did you mean 'gpu_clock_mhz'"),
    ],
)
def test_bad_clocks_are_named(pool: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        deploy(plan(pool))


def test_pools_on_the_same_accelerators_have_one_clock() -> None:
    shared = {"shared_gpus": [{"pools": ["p0", "p1"]}]}
    halves = {"gpu_memory_utilization": 0.45}
    deploy(plan({**halves, "gpu_clock_mhz": 900}, {**halves, "gpu_clock_mhz": 900, "serves": ["b"]}, **shared))
    with pytest.raises(InputError, match=r"900 MHz.*alike"):
        deploy(plan({**halves, "gpu_clock_mhz": 900}, {**halves, "serves": ["b"]}, **shared))
