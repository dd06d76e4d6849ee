"""The program of a fleet: what each constraint forbids, on problems whose answer is plain arithmetic."""

from __future__ import annotations

from dataclasses import replace

import pytest

from servecast.planner.milp import SOLVERS, Outcome
from servecast.planner.program.fleet import Fleet, solve_fleet
from servecast.planner.program.problem import Aim, Offer, Problem, Scenario, undominated
from servecast.planner.program.promise import balance, lower_hull

HOUR = Scenario("trace", 3600.0, (36000.0,))  # 10 requests/s


def offer(name: str, usd: float, rate: float, **more: object) -> Offer:
    """A replica of one GPU that gets `rate` requests/s done."""
    values = {"gpu": "h100", "gpus": 1, "usd_per_hour": usd, "most": 16, "rates": (rate,), "share": rate / 10}
    return Offer(name=name, **{**values, **more})  # type: ignore[arg-type]


def problem(*offers: Offer, **more: object) -> Problem:
    values = {"scenarios": (HOUR,), "stock": {"h100": (16, 8), "a100": (16, 8)}, "rates": (10.0,)}
    return Problem(offers, **{**values, **more})  # type: ignore[arg-type]


def fleet(problem: Problem, aim: Aim = "price", **more: object) -> Fleet:
    found = solve_fleet(problem, aim, solver="highs", **more)  # type: ignore[arg-type]
    assert isinstance(found, Fleet)
    return found


@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_agree_on_the_cheapest_fleet(solver: str) -> None:
    # 5 small ones would cost 10, but there are 3: 3 x 2 + 4 = 10 requests/s for 10.5; 3 large ones cost 13.5.
    found = solve_fleet(problem(offer("large", 4.5, 4.0), offer("small", 2.0, 2.0, most=3)), solver=solver)
    assert isinstance(found, Fleet)
    assert found.counts == {"large": 1, "small": 3}
    assert found.price == pytest.approx(10.5)
    assert found.outcome.status == "optimal"


def test_busy_windows_and_what_may_fail() -> None:
    rush = Scenario("rush", 60.0, (1200.0,))  # 20 requests/s
    both = problem(offer("a", 1.0, 4.0, share=1.0), scenarios=(HOUR, rush))
    assert fleet(both).counts == {"a": 5}
    shed = replace(both, scenarios=(HOUR, replace(rush, allowed=240.0)))  # 16 requests/s are left
    assert fleet(shed).counts == {"a": 4}


def test_budget_and_availability() -> None:
    small = problem(offer("a", 1.0, 4.0), budget=2.5)
    assert isinstance(solve_fleet(small, solver="highs"), Outcome)
    assert fleet(small, "served").served == pytest.approx(0.8)  # two replicas of 4 requests/s, of 10
    few = problem(offer("a", 1.0, 4.0, gpus=8))
    assert isinstance(solve_fleet(few, solver="highs"), Outcome)  # 3 replicas of 8 GPUs, and there are 16


def test_spare_replicas_survive_a_loss() -> None:
    assert fleet(problem(offer("a", 1.0, 5.0))).counts == {"a": 2}
    assert fleet(problem(offer("a", 1.0, 5.0), spare=1)).counts == {"a": 3}


def test_uncertain_capacity_takes_more() -> None:
    assert fleet(problem(offer("a", 1.0, 5.0), robust=(0.2, 1))).counts == {"a": 3}  # 3 x 5 x 0.8 = 12
    two = problem(offer("a", 1.0, 5.0, most=1), offer("b", 1.1, 5.0, most=2), robust=(0.2, 1))
    assert sum(fleet(two).counts.values()) == 3


def test_groups_fit_into_nodes() -> None:
    # Of 12 GPUs in nodes of 8, one group of 8 has room; of 12 in nodes of 4, three groups of 3.
    wide = problem(offer("a", 1.0, 5.0, gpus=8, group=8), stock={"h100": (12, 8)})
    assert isinstance(solve_fleet(wide, solver="highs"), Outcome)
    odd = problem(offer("a", 1.0, 3.0, gpus=3, group=3), stock={"h100": (12, 4)})
    assert fleet(odd, "served").counts == {"a": 3}  # one a node, whatever 12 / 3 says


def test_resident_kv_by_littles_law() -> None:
    # 10 requests/s that hold 1,000 tokens for 4 s: 40,000 tokens, so three replicas of 16,000.
    held = problem(offer("a", 1.0, 100.0, share=10.0, resident=(4000.0,), kv_tokens=16000.0))
    assert fleet(held).counts == {"a": 3}


def pair(**more: object) -> Problem:
    """Prefill at 5 requests/s, decode at 2.5."""
    prefill = offer("p", 1.0, 5.0, role="prefill", kv_bytes=(1e9,), **more)
    return problem(prefill, offer("d", 1.0, 2.5, role="decode", kv_bytes=(1e9,), **{"gpu": "a100", **more}))


def test_prefixes_are_held_or_computed_again() -> None:
    """10 requests/s that take 0.1 s with all of their prefix and 0.3 s without; half of it waits 40 token-seconds, half
    200, so 2,400 tokens hold all of it. One replica with 1,000 would compute 35 % again and be busy for 1.7; two hold
    the first half and 80 % of the second. With no room to speak of it takes three."""
    one = offer("a", 1.0, 10.0, share=1.0, resident=(1e-3,), spared=(0.2,), held=(((0.5, 40.0), (0.5, 200.0)),))
    assert fleet(problem(one)).counts == {"a": 1}
    assert fleet(problem(replace(one, kv_tokens=2401.0))).counts == {"a": 1}
    assert fleet(problem(replace(one, kv_tokens=1000.0))).price == pytest.approx(2)
    assert fleet(problem(replace(one, kv_tokens=0.1))).counts == {"a": 3}


def test_prefill_and_decode_are_balanced() -> None:
    assert fleet(pair()).counts == {"p": 2, "d": 4}


def test_slow_links_need_more_replicas_or_another_zone() -> None:
    # 10 requests/s of 1 GB: 2 x 2.5 GB/s are too little, and 4 x 2.5 enough; decode replicas suffice.
    assert fleet(pair(network=2.5e9)).counts == {"p": 4, "d": 4}
    zones = replace(pair(), zones={"h100": "east", "a100": "west"})
    assert isinstance(solve_fleet(zones, solver="highs"), Outcome)
    joined = replace(zones, links={("east", "west"): 2e10})
    assert fleet(joined).counts == {"p": 2, "d": 4}
    thin = replace(zones, links={("east", "west"): 5e9})
    assert fleet(thin, "served").served == pytest.approx(0.5)


def test_one_kv_format_where_requests_are_handed_over() -> None:
    mixed = replace(pair(), offers=(*pair().offers, offer("m", 0.1, 1.0, most=2, kv_format="fp8")))
    assert fleet(mixed).counts == {"p": 2, "d": 4}


def test_energy_counts_idle_and_busy_watts() -> None:
    frugal = offer("frugal", 9.0, 5.0, idle_watts=50.0, busy_watts=100.0)
    cheap = offer("cheap", 1.0, 5.0, idle_watts=100.0, busy_watts=200.0)
    assert fleet(problem(frugal, cheap)).counts == {"cheap": 2}
    best = fleet(problem(frugal, cheap, goal="energy"))
    assert best.counts == {"frugal": 2}
    assert best.watts == pytest.approx(200.0)  # both busy all the time


def test_a_fleet_that_missed_does_not_come_back_nor_does_less() -> None:
    first = problem(offer("a", 1.0, 5.0), offer("b", 1.3, 5.0))
    cut = replace(first, cuts=({"a": 2},))
    assert fleet(cut).counts == {"a": 1, "b": 1}
    assert fleet(replace(first, cuts=({"a": 2, "b": 1},))).price > 2.3


def test_a_cut_holds_for_fleets_of_lesser_replicas() -> None:
    """Two large ones missed: one large and one small would, too, and so would two small ones; three small ones might
    not. Where nothing is known of small ones, each of them may be what was missing."""
    known = problem(
        offer("large", 3.0, 10.0), offer("small", 1.0, 10.0, gpu="a100"), cuts=({"large": 2},),
        better={"large": frozenset({"large"}), "small": frozenset({"small", "large"})},
    )  # fmt: skip
    assert fleet(known).counts == {"small": 3}
    assert fleet(replace(known, better={})).counts == {"small": 1}
    assert fleet(replace(known, cuts=({"large": 1, "small": 2},))).counts == {"small": 4}
    assert fleet(replace(known, cuts=({"small": 4},))).counts == {"large": 1}


def test_a_lesser_replica_is_cut_only_with_those_that_it_stands_for() -> None:
    """`a` is as fast as `b` with a smaller KV cache, so it could stand for it; not once a fleet that rules out only
    `a` was cut."""
    two = problem(offer("a", 1.0, 10.0), offer("b", 1.0, 10.0), offer("top", 2.0, 10.0))
    cut = replace(two, cuts=({"top": 1},), better={"a": frozenset({"a", "top"})})
    assert {o.name for o in undominated(two, ()).offers} == {"a", "top"}
    assert {o.name for o in undominated(cut, ()).offers} == {"a", "b", "top"}
    assert {
        o.name for o in undominated(replace(cut, better={**cut.better, "b": frozenset({"b", "top"})}), ()).offers
    } == {"a", "top"}


def test_lower_hull_is_below_all_points_and_convex() -> None:
    points = [(1.0, 0.0), (2.0, 0.5), (3.0, 0.4), (4.0, 2.0)]
    lines = lower_hull(points)
    slopes = [slope for slope, _ in lines]
    assert slopes == sorted(slopes)
    for x, y in points:
        assert max(slope * x + intercept for slope, intercept in lines) <= y + 1e-12
    assert max(slope * 3 + intercept for slope, intercept in lines) == pytest.approx(0.4)


def test_replicas_make_up_for_each_others_misses() -> None:
    """`a` alone keeps 1 % misses up to 5 requests/s; beside `b`, which has none, it may miss more."""
    steep = (("tpot p99 <= 50ms", lower_hull([(5.0, 0.05), (10.0, 1.05)])),)
    clean = (("tpot p99 <= 50ms", ((0.0, 0.0),)),)
    a, b = offer("a", 1.0, 10.0, late=steep), offer("b", 1.0, 5.0, late=clean)
    both = problem(a, b, rare={"tpot p99 <= 50ms": 0.01})
    alone, _ = balance(both, {"a": 1}, "highs")
    assert alone == pytest.approx(0.5, rel=1e-3)
    together, shares = balance(both, {"a": 1, "b": 1}, "highs")
    assert together > alone + 0.5
    assert sum(shares[0].values()) == pytest.approx(1.0)


@pytest.mark.parametrize("solver", ["highs", "cbc"])
def test_what_one_more_unit_is_worth_over_fast_links(solver: str) -> None:
    """A day over 900 GB/s is 8e16 bytes, a factor that HiGHS refuses with its row: rows and duals must stay in step."""
    day = replace(pair(network=9e11), scenarios=(Scenario("day", 86400.0, (864000.0,)),))
    relaxed = solve_fleet(day, solver=solver, relaxed=True)
    assert isinstance(relaxed, Fleet)
    more = {name: dual for name, dual in relaxed.outcome.duals.items() if abs(dual) > 1e-6}
    kinds = {name.split("_")[0] for name in more}
    assert kinds and kinds <= {"load", "busy", "carried", "network"}
