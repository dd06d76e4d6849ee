"""Goodput per cost: how much of the load a budget can carry within the SLO, and where a dollar carries most."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..measure.points import Interval, largest
from ..measure.workload import thinned
from ..milp import Outcome
from ..program.fleet import Fleet, solve_fleet
from ..program.problem import Counts
from .planfile import plan_of
from .search import Search

_SHARES = (0.4, 0.6, 0.8, 1.0)  # of the budget


@dataclass(frozen=True)
class Served:
    """share : of the trace's requests that the fleet carries within the SLO, by thinned replays."""

    counts: Counts
    usd_per_hour: float
    share: Interval
    request_goodput: float

    @property
    def goodput_per_usd(self) -> float:
        """Requests served within the SLO for a dollar."""
        return self.request_goodput * 3600 / self.usd_per_hour


def goodput_fleets(search: Search, budget: float) -> list[Served]:
    """For parts of a budget, the fleet that serves most in the program, and what replays say it serves; best first."""
    found: dict[tuple[tuple[str, int], ...], Served] = {}
    for part in _SHARES:
        fleet = _most(search, part * budget)
        if isinstance(fleet, Fleet) and fleet.counts:
            found[tuple(sorted(fleet.counts.items()))] = _measure(search, fleet)
    return sorted(found.values(), key=lambda served: (-served.goodput_per_usd, served.usd_per_hour))


def _most(search: Search, budget: float) -> Fleet | Outcome:
    """The fleet that is thought to serve most, of types that are all measured."""
    while True:
        problem = replace(search.problem(), budget=budget, cuts=())
        fleet = solve_fleet(problem, "goodput", solver=search.solver)
        if not isinstance(fleet, Fleet) or not search.market.refine(fleet.counts):
            return fleet


def _measure(search: Search, fleet: Fleet) -> Served:
    capacity = search.market.capacity
    plan, table = plan_of(search.values(fleet.counts)), capacity.workload.table

    def carries(share: float) -> bool:
        part = thinned(table, share, capacity.judge.seed) if share < 1 else table
        return not len(part) or capacity.judge.replay(plan, part, capacity.targets.local(len(part))).met

    share = Interval(1.0, 1.0) if carries(1.0) else largest(carries, 1.0, close=1.05)
    return Served(fleet.counts, fleet.usd_per_hour, share, share.low * capacity.workload.rate)
