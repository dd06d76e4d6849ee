"""Capacity points: how much load an instance type carries within the SLO, from short simulations.

Three rates of one replica:
- saturated: what it gets done when everything is there at once (the SLO does not matter);
- smooth: what it carries within the SLO when requests come at equal distances, in random order of sizes: what pools
  under bursty arrivals come near to as they grow;
- pooled: a curve over pool size, from thinned copies of the trace itself, bursts and all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, sqrt
from typing import Any

import numpy as np

from ...configs.plan import Plan
from ...configs.slo import SLO
from ...traces.table import RequestTable
from ..candidates import Candidate, fleet_plan
from ..inventory import Inventory
from .judge import Judge, Verdict
from .targets import Targets
from .workload import Workload, evenly, thinned

_BEYOND = (1.15, 1.25, 1.5)  # times the rate that misses the SLO: one between the outer two is tried as well
_DOUBT = 1.02  # on a rate from a sample that stands for the trace
_CLOSE = 1.1  # ratio at which bisection ends: samples of some hundred requests tell no more
_SLOWEST = 1 / 256  # of the saturated rate: who cannot carry that carries nothing
_ALONE = 100  # requests of the test for isolated latency, one at a time
_HELPERS = 64  # prefill replicas that feed a decode replica under test
_TESTED = "replica"  # pool of the one under test
_NO_LIMIT = 1e15  # bytes/s


@dataclass(frozen=True)
class Interval:
    """A rate or share that is known to be at least `low` and below `high`."""

    low: float
    high: float


@dataclass(frozen=True)
class Isolated:
    """missed : what requests of a bucket miss without any other request, None where they keep the SLO.

    token_seconds : that one of them takes in the KV cache while it decodes, on average. tpot : of the fastest, seconds.
    """

    missed: str | None
    token_seconds: float
    tpot: float


@dataclass(frozen=True)
class Smooth:
    """Requests/s of a replica under evenly spaced arrivals, as far as is known.

    low, high : the SLO holds at `low` and not at `high`. good : no load gets more requests through within their limits;
    it is above `high`, since other replicas can make up for some misses. seconds : that a request stays at `low`.
    next : the rate to try next, None where the interval is narrow enough.
    """

    low: float
    high: float
    good: float
    seconds: float
    next: float | None


@dataclass
class Capacity:
    """Measures candidates on a workload, each point once.

    A replica of one role is judged by its own phase: of a prefill replica only first tokens are asked, and a decode
    replica gets its requests from more prefill replicas than it needs, over links without limit.
    """

    inventory: Inventory
    workload: Workload
    targets: Targets
    judge: Judge

    def alone(self, candidate: Candidate) -> list[Isolated]:
        """By bucket, how its requests fare with a replica for each of them.

        A bucket breaks the SLO where it misses so often that all other requests together cannot make up for it.
        """
        found = []
        for bucket, share in enumerate(self.workload.shares):
            table = _phase(evenly(self.workload.spread(bucket, ceil(_ALONE * share)), 1e-4), candidate.role)
            targets = self.targets.phase(candidate.role, len(table))
            verdict = self.judge.sample(self._plan(candidate), table, targets)
            hopeless = not verdict.met and (verdict.beyond * share > 1 or verdict.beyond <= 1)
            found.append(Isolated(verdict.missed if hopeless else None, verdict.token_seconds, verdict.least_tpot))
        return found

    def saturated(self, candidate: Candidate, bucket: int | None = None) -> float:
        """Requests/s of one replica with a full queue."""
        few, many = self._full_queue(candidate, bucket)
        return (many.requests - few.requests) / _between(few, many)

    def prompts(self, candidate: Candidate, bucket: int | None = None) -> float:
        """Requests/s of which one replica computes the prompts, with a full queue of these alone.

        Prompts alone vary less than what decodes beside them: a third of the sample will do.
        """
        table = _phase(self._sample(bucket), "prefill")
        few, many = len(table) // 9, len(table) // 3
        average = float(table.prompt_tokens[few:many].sum() / table.prompt_tokens.mean())
        return average / _between(*self._drained(self._plan(candidate), table, few, many))

    def cold(self, candidate: Candidate, bucket: int | None = None) -> float:
        """The same as `saturated` where nothing is found in a prefix cache."""
        table = _phase(self._sample(bucket), candidate.role)
        few, many = self._drained(self._plan(candidate, warm=False), table, len(table) // 3, len(table))
        return (many.requests - few.requests) / _between(few, many)

    def busy_watts(self, candidate: Candidate) -> float:
        """What one replica draws with a full queue; 0 where nobody knows."""
        return self._full_queue(candidate, None)[1].busy_watts.get(_TESTED, 0.0)

    def _full_queue(self, candidate: Candidate, bucket: int | None) -> tuple[Verdict, Verdict]:
        table = _phase(self._sample(bucket), candidate.role)
        return self._drained(self._plan(candidate), table, len(table) // 3, len(table))

    def _sample(self, bucket: int | None) -> RequestTable:
        return self.workload.sample(self.judge.seed, None if bucket is None else [bucket])

    def _drained(self, plan: Plan, table: RequestTable, few: int, many: int) -> tuple[Verdict, Verdict]:
        """Two amounts of work that are there at once: what one takes more than the other has no ends."""
        anything = Targets(SLO({}, {}, ()), len(table))
        first, second = (self.judge.sample(plan, table.take(slice(0, n)), anything) for n in (few, many))
        return first, second

    def at_rate(self, candidate: Candidate, served: Sequence[int], rate: float) -> Verdict:
        """One replica under evenly spaced requests of some buckets."""
        table = _phase(self.workload.sample(self.judge.seed, served), candidate.role)
        targets = self.targets.phase(candidate.role, len(table))
        return self.judge.sample(self._plan(candidate), evenly(table, rate), targets)

    def replay(self, plan: Plan) -> Verdict:
        """The whole trace on a plan."""
        return self.judge.replay(plan, self.workload.table, self.targets)

    def pooled(self, candidate: Candidate, replicas: int, low: float, top: float) -> Interval:
        """The share of the trace that each of so many replicas carries within the SLO; together at least `low`, below
        `top`."""
        plan, table = self.one_type(candidate, replicas), self.workload.table

        def carries(share: float) -> bool:
            part = thinned(table, share, self.judge.seed)
            return not len(part) or self.judge.replay(plan, part, self.targets.local(len(part))).met

        share = largest(carries, top, low)
        return Interval(share.low / replicas, share.high / replicas)

    def one_type(self, candidate: Candidate, replicas: int) -> Plan:
        """So many replicas; where prefixes can be found, requests go to them."""
        router = {"name": "planned_shares", "weights": [[1.0] * replicas], "affinity": True}
        more: dict[str, Any] = {"router": router} if self.workload.prefixes else {}
        return fleet_plan(self.inventory, [replace(candidate.pool, replicas=replicas)], **more)

    def _plan(self, candidate: Candidate, warm: bool = True) -> Plan:
        """One replica, with all that it needs to be judged by its role. Where it stands and what it costs is no matter:
        the same card in two zones is measured once.

        warm : what its requests might find in a prefix cache takes its memory and is read, but never computed. They are
        measured apart from each other, so nothing is kept between them.
        """
        pool = replace(candidate.pool, name=_TESTED, fabric="", price_per_hour=None)
        kept = {key: value for key, value in self.inventory.plan.items() if key not in ("retention", "tiers")}
        if self.workload.prefixes and candidate.caches and warm:
            kept["reuse"] = {"name": "kvshare", "hit": 1.0, "recompute": 0.0}
        inventory = replace(self.inventory, plan=kept)
        if candidate.role != "decode":
            return fleet_plan(inventory, [replace(pool, role="mixed")])
        helpers = replace(pool, name="helpers", role="prefill", replicas=_HELPERS)
        free = {"bandwidth": _NO_LIMIT, "latency": 0.0}
        return fleet_plan(inventory, [helpers, pool], links={"link": free, "network": free})


def _between(few: Verdict, many: Verdict) -> float:
    """Seconds that one run took longer than the other."""
    return max(many.requests / many.throughput - few.requests / few.throughput, 1e-9)


def _phase(table: RequestTable, role: str) -> RequestTable:
    """What a role sees of the requests: without the other one, a prompt ends with its first token."""
    return replace(table, output_tokens=np.ones_like(table.output_tokens)) if role == "prefill" else table


def smooth_of(seen: Mapping[float, Verdict], top: float) -> Smooth:
    """What verdicts by rate say of a replica that gets `top` requests/s done with a full queue.

    The next rate lies halfway, in ratio, between what holds and what does not; then a load beyond, which tells how fast
    it goes down from there.
    """
    high = min((rate for rate, verdict in seen.items() if not verdict.met), default=top)
    low = max((rate for rate, verdict in seen.items() if verdict.met and rate < high), default=0.0)
    least = _SLOWEST * top
    following: float | None = sqrt(low * high) if low else max(high / 2, least)
    if high <= (low or least) * _CLOSE:
        near, beyond, far = (high * factor for factor in _BEYOND)
        following = beyond if beyond < top and not any(near <= other <= far for other in seen) else None
    stays = seen[low or min(seen)].mean_e2el if seen else 1.0
    return Smooth(low, high, _most_good(seen, top) * _DOUBT, stays, following)


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


def _most_good(seen: Mapping[float, Verdict], top: float) -> float:
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
