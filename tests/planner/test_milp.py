"""The door to integer programs: three solvers agree, and none is called optimal that only ran out of time."""

from __future__ import annotations

import random

import pytest

from servecast.errors import InputError
from servecast.planner.milp import SOLVERS, Program, relative_gap, total


def knapsack(seed: int, *, maximize: bool) -> Program:
    """A random program of both senses, small enough for every solver to finish."""
    draw = random.Random(seed)
    program = Program("knapsack", maximize=maximize)
    items = [program.count(f"x{i}", 0, 2) for i in range(12)]
    program.aim(draw.randint(20, 60) * x for x in items)
    for row in range(3):
        weight = total(draw.randint(5, 40) * x for x in items)
        program.require(weight <= 250 if maximize else weight >= 250, f"row{row}")
    return program


def market_split(size: int = 50, rows: int = 5) -> Program:
    """Cornuejols and Dawande (1998): small, and far beyond what branch and bound can prove in a moment."""
    draw = random.Random(1)
    program = Program("split")
    items = [program.count(f"x{i}", 0, 1) for i in range(size)]
    slack = []
    for row in range(rows):
        weights = [draw.randint(0, 99) for _ in items]
        over, under = program.number(f"over{row}"), program.number(f"under{row}")
        program.require(
            total(w * x for w, x in zip(weights, items, strict=True)) + under - over == sum(weights) // 2, f"r{row}"
        )
        slack += [over, under]
    program.aim(slack)
    return program


@pytest.mark.parametrize("maximize", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_all_solvers_prove_the_same_optimum(seed: int, maximize: bool) -> None:
    outcomes = [knapsack(seed, maximize=maximize).solve(solver) for solver in SOLVERS]
    assert {outcome.status for outcome in outcomes} == {"optimal"}
    assert len({round(outcome.value or 0, 6) for outcome in outcomes}) == 1
    for outcome in outcomes:
        assert outcome.gap is not None and outcome.gap <= 1e-6  # the solvers' own tolerance is 1e-7


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_time_limit_is_not_optimal(solver: str) -> None:
    """PuLP itself says "Optimal" here."""
    outcome = market_split().solve(solver, time_limit=0.5)
    assert outcome.status == "time limit"
    if outcome.value is not None and outcome.bound is not None:
        assert outcome.bound < outcome.value and outcome.gap is not None and outcome.gap > 0


@pytest.mark.parametrize("solver", SOLVERS)
def test_what_cannot_be_solved_says_so(solver: str) -> None:
    program = Program("none")
    x = program.count("x", 0, 5)
    program.aim([x])
    program.require(2 * x >= 11, "too much")
    outcome = program.solve(solver)
    assert (outcome.status, outcome.value, outcome.gap) == ("infeasible", None, None)


@pytest.mark.parametrize("maximize", [True, False])
@pytest.mark.parametrize("solver", ["highs", "cbc"])
def test_duals_are_the_worth_of_one_more_unit(solver: str, maximize: bool) -> None:
    """Against the difference of two solves; in both senses, since PuLP hands HiGHS a negated objective."""

    def solved(limit: float) -> tuple[float, dict[str, float]]:
        program = Program("relaxed", maximize=maximize)
        x, y = program.number("x", 0, 4), program.number("y", 0, 9)
        program.aim([3 * x, 2 * y])
        mix = x + y
        program.require(mix <= limit if maximize else mix >= limit, "limit")
        outcome = program.solve(solver, relaxed=True)
        assert outcome.value is not None
        return outcome.value, outcome.duals

    (value, duals), (more, _) = solved(6), solved(7)
    assert duals["limit"] == pytest.approx(more - value)


def test_an_unknown_solver_is_named() -> None:
    with pytest.raises(InputError, match="did you mean 'highs'"):
        knapsack(0, maximize=True).solve("high")


def test_a_missing_solver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servecast.planner.milp.find_spec", lambda name: None)
    with pytest.raises(InputError, match="highspy is not installed"):
        knapsack(0, maximize=True).solve("highs")


def test_rounding_is_no_gap() -> None:
    assert relative_gap(3.0, 3.0 + 1e-12) == 0 and relative_gap(2.0, 3.0) == 0.5
