"""GPU clocks as a choice of the planner: energy against latency at the same price, and power as replays have it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from servecast.configs.catalog import find_hardware
from servecast.costmodels.energy import busy_watts, idle_watts
from servecast.errors import InputError
from servecast.planner.candidates import find_candidates
from servecast.planner.inventory import Inventory, Stock
from servecast.planner.measure.cache import Cache
from servecast.planner.measure.judge import Judge
from servecast.planner.measure.points import Capacity
from servecast.planner.measure.targets import Targets
from servecast.planner.measure.workload import Workload
from servecast.planner.program.problem import Offer, Problem, Scenario, undominated
from servecast.planner.search.planfile import plan_of
from servecast.planner.search.planning import Options, Planned, plan_fleet
from servecast.sim.report.report import build_report
from servecast.sim.run import run

spec = importlib.util.spec_from_file_location(
    "planner_small_clocks", Path(__file__).parents[2] / "bench" / "studies" / "planner_small.py"
)
assert spec and spec.loader
small = importlib.util.module_from_spec(spec)
spec.loader.exec_module(small)

TRACE = small.trace(20.0, 500)
SLACK, TIGHT = ("ttft p99 <= 2s", "tpot p99 <= 80ms"), ("ttft p99 <= 0.2s", "tpot p99 <= 25ms")
H100S, H100 = {"h100": Stock(1)}, find_hardware("h100")


def inventory(gpus: dict[str, Stock] = H100S, clocks: tuple[int | None, ...] = (None, 1200), **more: Any) -> Inventory:
    return Inventory(
        "llama-3.1-8b", gpus, tensor_parallel_size=(1,), max_num_batched_tokens=(None,),
        choices={"gpu_clock_mhz": clocks}, **more,
    )  # fmt: skip


def planned(limits: tuple[str, ...], goal: Any = "energy", **more: Any) -> Planned:
    options = Options(solver="highs", goal=goal, compare=False, pareto=goal == "cost")
    return plan_fleet(TRACE, small.slo(*limits), inventory(**more), options)


def clock(plan: Planned) -> int | None:
    """Of the only pool."""
    assert plan.values
    (pool,) = plan.values["pools"]
    return pool.get("gpu_clock_mhz")  # type: ignore[no-any-return]


def test_energy_lowers_the_clock_where_the_slo_leaves_room() -> None:
    """Llama-3.1-8B on one H100: a third less energy at the same price, both fleets replayed in full; throttLL'eM saved
    24.7 % on average without scaling (arXiv 2408.05235)."""
    slack = planned(SLACK)
    watts = {next(iter(f["counts"])): f["watts"] for f in slack.report["tried"] if f["met"]}
    assert clock(slack) == 1200 and slack.report["gap"] == 0
    assert slack.report["plan"]["usd_per_hour"] == 2.99
    assert 0.2 < 1 - watts["h100-tp1-pp1-gpu_clock_mhz1200"] / watts["h100-tp1-pp1"] < 0.45
    tight = planned(TIGHT)
    assert clock(tight) is None
    assert [f["met"] for f in tight.report["tried"]] == [False, True]  # the low clock was replayed, too


@pytest.mark.parametrize("limits", [SLACK, ("ttft p99 <= 0.15s", "tpot p99 <= 15ms")])
def test_the_least_power_is_that_of_all_fleets(limits: tuple[str, ...]) -> None:
    """Two GPUs at three clocks: nine fleets, each replayed by the oracle; the cheapest need not be the most frugal."""
    options = Options(solver="highs", goal="energy", compare=False, exhaustive=True)
    choices = inventory({"h100": Stock(2)}, (None, 1500, 1200))
    report = plan_fleet(TRACE, small.slo(*limits), choices, options).report
    assert report["plan"]["watts"] == report["exhaustive"]["watts"] == report["value"] >= report["bound"]
    assert all(f["watts"] >= report["value"] for f in report["tried"] if f["met"])


def test_the_plan_draws_what_its_own_simulation_says() -> None:
    plan = planned(SLACK)
    assert plan.values
    result = run(TRACE, plan_of(plan.values))
    (pool,) = build_report(result)["simulation"]["pools"]
    joules = pool["energy"]["active_joules"] + pool["energy"]["idle_joules"]
    assert plan.report["value"] == pytest.approx(joules / (result.duration / 2**36), rel=1e-3)


def test_electricity_pays_for_a_lower_clock() -> None:
    """Without a price of electricity the clock costs nothing, and nobody gives latency away for nothing; what is saved
    then is seen in the front of cost against power."""
    free, paid = planned(SLACK, "cost"), planned(SLACK, "cost", electricity_per_kwh=0.3)
    assert clock(free) is None and clock(paid) == 1200
    assert paid.report["value"] == pytest.approx(2.99 + 0.3 * paid.report["plan"]["watts"] / 1e3)
    (frugal,) = free.report["pareto"]
    assert frugal["usd_per_hour"] == free.report["plan"]["usd_per_hour"]
    assert frugal["watts"] < 0.8 * free.report["plan"]["watts"]


def test_joules_of_a_request_are_at_most_those_of_a_replay() -> None:
    """The program counts what a request takes with a full queue: the least, within 2 % of ends. A replica that gets
    less reads its weights for fewer requests; at most, it always works, and on kernels that memory bounds."""
    choices = inventory(clocks=(None, 1200, 700))
    candidates, _ = find_candidates(choices, TRACE)
    capacity = Capacity(choices, Workload.of(TRACE, buckets=False), Targets(small.slo(*SLACK), 500), Judge(Cache(None)))
    for candidate in candidates:
        idle = idle_watts(H100)
        assert idle and candidate.idle_watts == idle
        mhz = candidate.pool.gpu_clock_mhz
        busy = busy_watts(H100.locked(mhz) if mhz else H100)
        top, full = capacity.saturated(candidate), capacity.busy_watts(candidate)
        assert busy and idle < full <= busy * (1 + 1e-9) and (full < busy) == (mhz is not None)
        for load in (0.3, 0.97):
            verdict = capacity.at_rate(candidate, [0], load * top)
            spent = (verdict.watts - idle) / verdict.throughput
            most = (busy - idle) / verdict.throughput
            assert 0.98 * (full - idle) / top < spent <= most * (1 + 1e-9), (candidate.name, load)


def test_a_locked_type_is_needed_only_where_power_counts() -> None:
    """At the same price and slower, it is dominated unless power has a price."""
    free = Offer("free", "g", 1, 1.0, 4, (5.0,), 0.5, idle_watts=100.0, busy_watts=400.0)
    low = Offer("low", "g", 1, 1.0, 4, (4.0,), 0.4, idle_watts=100.0, busy_watts=200.0)
    worse = Offer("worse", "g", 1, 1.0, 4, (4.0,), 0.4, idle_watts=100.0, busy_watts=400.0)

    def kept(**price: Any) -> set[str]:
        problem = Problem((free, low, worse), (Scenario("all", 10.0, (20.0,)),), {"g": (4, 8)}, **price)
        return {offer.name for offer in undominated(problem, []).offers}

    assert kept() == {"free"}
    assert kept(goal="energy") == kept(electricity_per_kwh=0.2) == {"free", "low"}


def test_clocks_that_no_gpu_has_are_refused_and_those_of_some_are_choices() -> None:
    with pytest.raises(InputError, match=r"choices.gpu_clock_mhz: 5000 MHz; expected 345 to 1980 MHz on h100"):
        find_candidates(inventory(clocks=(None, 5000)), TRACE)
    with pytest.raises(InputError, match=r"gpus.b200.defaults.gpu_clock_mhz: 900, and nothing is known of the clocks"):
        mixed = {"h100": Stock(1), "b200": Stock(1, 6.0, defaults={"gpu_clock_mhz": 900})}
        find_candidates(inventory(mixed), TRACE)
    both = inventory({"h100": Stock(1), "a100-80gb": Stock(1)}, (None, 1700))
    candidates, rejected = find_candidates(both, TRACE)
    assert [c.pool.gpu_clock_mhz for c in candidates] == [None, 1700, None]
    assert "1700 MHz; expected 210 to 1410 MHz on a100-80gb" in rejected[0].reason
