"""Cost against power: the fleets that meet the SLO and are beaten in neither, by the epsilon-constraint method."""

from __future__ import annotations

from dataclasses import replace

from ..program.fleet import Fleet, solve_fleet
from .search import Search, Tried

_BUDGETS = (1.0, 1.15, 1.3, 1.6, 2.0)  # times the least cost
_PROMISES = (1.0, 0.75)  # of the load: fleets that should carry it, then more frugal ones that might
_ATTEMPTS = 3  # replays a budget and promise


def pareto_front(search: Search, best: Tried) -> list[Tried]:
    """From the cheapest to the most frugal: for some budgets, the least power within it that a replay accepts."""
    found = [
        _frugal(search, factor * best.usd_per_hour * (1 + 1e-9), promised)
        for factor in _BUDGETS for promised in _PROMISES
    ]  # fmt: skip
    return _undominated([best, *(tried for tried in found if tried)])


def _frugal(search: Search, budget: float, promised: float) -> Tried | None:
    """The first fleet, in order of power, that is thought to carry so much and meets the SLO; None if the first few
    miss it."""
    attempts = _ATTEMPTS
    while attempts:
        problem = replace(search.problem(), goal="energy", budget=budget)
        fleet = solve_fleet(problem, promised=promised, avoid=search.missed(), solver=search.solver)
        if not isinstance(fleet, Fleet):
            return None
        if search.market.refine(fleet.counts):
            continue
        attempts -= 1
        tried = search.attempt(fleet.counts)
        if tried.verdict.met:
            return tried
    return None


def _undominated(fleets: list[Tried]) -> list[Tried]:
    front: list[Tried] = []
    for fleet in sorted(fleets, key=lambda t: (t.usd_per_hour, t.watts, t.name)):
        if not front or fleet.watts < front[-1].watts * (1 - 1e-9):
            front.append(fleet)
    return front
