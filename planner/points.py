"""Capacity points: how much load an instance type carries within the SLO, from short simulations.

Three rates of one replica:
- saturated: what it gets done when everything is there at once (the SLO does not matter);
- smooth: what it carries within the SLO when requests come at equal distances, in random order of sizes: what pools
  under bursty arrivals come near to as they grow;
- pooled: a curve over pool size, from thinned copies of the trace itself, bursts and all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, sqrt

from ..configs.plan import Plan
from ..configs.slo import SLO
from .candidates import Candidate, fleet_plan
from .inventory import Inventory
from .judge import Judge, Verdict
from .targets import Targets
from .workload import Workload, evenly, thinned

_BEYOND = (1.15, 1.35)  # times the rate that misses the SLO, tried as well
_DOUBT = 1.02  # on a rate from a sample that stands for the trace
_CLOSE = 1.06  # ratio at which bisection ends
_SLOWEST = 1 / 256  # of the saturated rate: who cannot carry that carries nothing
_ALONE = 100  # requests of the test for isolated latency, one at a time


@dataclass(frozen=True)
class Interval:
    """A rate or share that is known to be at least `low` and below `high`."""

    low: float
    high: float


@dataclass(frozen=True)
class Smooth:
    """Requests/s of a replica under evenly spaced arrivals.

    low, high : the SLO holds at `low` and not at `high`. good : no load gets more requests through within their limits;
    it is above `high`, since other replicas can make up for some misses. seconds : that a request stays at `low`.
    """

    low: float
    high: float
    good: float
    seconds: float


@dataclass
class Capacity:
    """Measures candidates on a workload, each point once."""

    inventory: Inventory
    workload: Workload
    targets: Targets
    judge: Judge

    def alone(self, candidate: Candidate) -> list[str | None]:
        """By bucket: why its requests would break the SLO even with a replica for each of them, or None.

        They do where they miss so often that all other requests together cannot make up for it.
        """
        reasons: list[str | None] = []
        for bucket, share in enumerate(self.workload.shares):
            table = evenly(self.workload.spread(bucket, ceil(_ALONE * share)), 1e-4)
            verdict = self.judge.sample(self._plan(candidate, 1), table, self.targets.local(len(table)))
            hopeless = not verdict.met and (verdict.beyond * share > 1 or verdict.beyond <= 1)
            reasons.append(verdict.missed if hopeless else None)
        return reasons

    def saturated(self, candidate: Candidate, bucket: int | None = None) -> float:
        """Requests/s of one replica with a full queue; from two amounts of work, so that ends do not count."""
        table = self.workload.sample(self.judge.seed, None if bucket is None else [bucket])
        plan, anything = self._plan(candidate, 1), Targets(SLO({}, {}, ()), len(table))
        few, many = len(table) // 3, len(table)
        times = []
        for requests in (few, many):
            verdict = self.judge.sample(plan, table.take(slice(0, requests)), anything)
            times.append(requests / verdict.throughput)
        return (many - few) / max(times[1] - times[0], 1e-9)

    def smooth(self, candidate: Candidate, served: Sequence[int]) -> Smooth:
        """What one replica carries without bursts; `served` are the buckets whose requests come."""
        table = self.workload.sample(self.judge.seed, served)
        plan, targets = self._plan(candidate, 1), self.targets.local(len(table))
        top = self.saturated(candidate)
        seen: dict[float, Verdict] = {}

        def carries(rate: float) -> bool:
            seen[rate] = self.judge.sample(plan, evenly(table, rate), targets)
            return seen[rate].met

        interval = largest(carries, top)
        for factor in _BEYOND:  # how fast it goes down from there
            if interval.high * factor < top:
                carries(interval.high * factor)
        stays = seen[interval.low if interval.low in seen else min(seen)].mean_e2el
        return Smooth(interval.low, interval.high, _most_good(seen, top) * _DOUBT, stays)

    def pooled(self, candidate: Candidate, replicas: int, low: float) -> Interval:
        """The share of the trace that each of so many replicas carries within the SLO, `low` of them together at least.

        Together they do not carry the whole trace.
        """
        plan, table = self._plan(candidate, replicas), self.workload.table

        def carries(share: float) -> bool:
            part = thinned(table, share, self.judge.seed)
            return not len(part) or self.judge.replay(plan, part, self.targets.local(len(part))).met

        share = largest(carries, 1.0, low, close=1.1)
        return Interval(share.low / replicas, share.high / replicas)

    def _plan(self, candidate: Candidate, replicas: int) -> Plan:
        return fleet_plan(self.inventory, {candidate.pool: replicas})


def largest(carries: Callable[[float], bool], top: float, low: float = 0.0, close: float = _CLOSE) -> Interval:
    """The largest rate that `carries`, from `low`, which does, up to `top`, which does not; in equal ratios."""
    high, least = top, _SLOWEST * top
    while high > max(low, least) * close:
        middle = sqrt(high * low) if low else max(high / 2, least)
        if carries(middle):
            low = middle
        elif middle <= least:
            return Interval(0.0, middle)
        else:
            high = middle
    return Interval(low, high)


def _most_good(seen: dict[float, Verdict], top: float) -> float:
    """An upper bound on the requests/s within each objective's limit, from loads that were tried.

    Misses grow with the load: between two loads that were tried, no load gets more through than the greater one would
    with the misses of the smaller one.
    """
    rates = sorted(seen)
    most = []
    for objective in zip(*(seen[rate].over for rate in rates), strict=True):
        missed = [0.0, *objective]
        most.append(max(rate * (1 - share) for rate, share in zip([*rates, top], missed, strict=True)))
    return min(most, default=top)
