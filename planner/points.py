"""Capacity points: how much load an instance type carries within the SLO, from short simulations.

Three rates of one replica, each at most the one before:
- saturated: what it gets done when everything is there at once (the SLO does not matter);
- smooth: what it carries within the SLO when requests come at equal distances, in random order of sizes. No pool under
  bursty arrivals does better a replica, so pools of any size tend to it from below;
- pooled: a curve over pool size, from thinned copies of the trace itself, bursts and all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

from ..configs.plan import Plan
from ..configs.slo import SLO
from .candidates import Candidate, fleet_plan
from .inventory import Inventory
from .judge import Judge
from .targets import Targets
from .workload import Workload, evenly, thinned

_CLOSE = 1.04  # ratio at which bisection ends
_SLOWEST = 1 / 256  # of the saturated rate: who cannot carry that carries nothing
_ALONE = 200  # requests of the test for isolated latency, one at a time


@dataclass(frozen=True)
class Interval:
    """A rate or share that is known to be at least `low` and below `high`."""

    low: float
    high: float


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
            table = evenly(self.workload.sample(self.judge.seed, [bucket], _ALONE), 1e-4)
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

    def smooth(self, candidate: Candidate) -> tuple[Interval, float]:
        """Requests/s of one replica within the SLO without bursts, and seconds that a request then stays.

        All buckets together, but where the SLO excludes some for this candidate, only the others.
        """
        served = [b for b, reason in enumerate(self.alone(candidate)) if reason is None]
        table = self.workload.sample(self.judge.seed, served)
        plan, targets = self._plan(candidate, 1), self.targets.local(len(table))
        stays = {}

        def carries(rate: float) -> bool:
            verdict = self.judge.sample(plan, evenly(table, rate), targets)
            stays[rate] = verdict.mean_e2el
            return verdict.met

        interval = largest(carries, self.saturated(candidate))
        return interval, stays.get(interval.low, min(stays.values()))

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
