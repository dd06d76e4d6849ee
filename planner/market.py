"""From candidates to offers: what is measured of an instance type and when, cheap points first, dear ones on demand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import ceil, inf, sqrt
from statistics import median

from .candidates import Candidate, Rejected, fleet_plan
from .fleet import Counts, Goal, Offer, Problem, Scenario
from .judge import Verdict
from .parallel import prefetch
from .points import Capacity, Interval, Smooth
from .workload import Workload

_BURSTS = 0.8  # of its smooth rate that a replica is thought to carry under bursts, before any is measured


@dataclass
class Known:
    """What is known of a candidate.

    rates : requests/s by bucket that a replica gets done at best, SLO or not; 0 where the SLO excludes the bucket.
    share : of the trace that a replica gets done within the limits at best. pooled : that it carries in a pool.
    alone : replays of fleets of this type only, by replicas.
    """

    candidate: Candidate
    rates: list[float]
    share: float
    smooth: Smooth | None = None
    pooled: Interval | None = None
    alone: dict[int, Verdict] = field(default_factory=dict)

    @property
    def served(self) -> list[int]:
        """The buckets that it serves."""
        return [bucket for bucket, rate in enumerate(self.rates) if rate]

    @property
    def needed(self) -> int | None:
        """Replicas that carry the trace without help; None where no number that is there does."""
        return min((n for n, verdict in self.alone.items() if verdict.met), default=None)

    @property
    def failed(self) -> int:
        """Replicas that do not carry the trace without help, as far as was tried."""
        return max((n for n, verdict in self.alone.items() if not verdict.met), default=0)

    @property
    def least(self) -> int:
        """Replicas below which they cannot carry the trace without help."""
        return ceil(1 / self.share - 1e-9) if self.share else self.candidate.most + 1


class Market:
    """Measures the candidates of a search, no more than the programs ask for."""

    def __init__(self, capacity: Capacity, candidates: list[Candidate], goal: Goal = "cost") -> None:
        """`capacity` comes with buckets; they are dropped where every candidate serves all of them or none."""
        self.goal = goal
        prefetch(capacity, [("alone", (candidate,)) for candidate in candidates])
        reasons = {candidate.name: capacity.alone(candidate) for candidate in candidates}
        if not any(None in mine and any(mine) for mine in reasons.values()):
            capacity = replace(capacity, workload=Workload.of(capacity.workload.table, buckets=False))
            reasons = {name: [None if None in mine else mine[0]] for name, mine in reasons.items()}
        self.capacity, self.workload, self.inventory = capacity, capacity.workload, capacity.inventory
        self.rejected = [
            Rejected(name, f"misses the SLO without any other request: {mine[0]}")
            for name, mine in reasons.items()
            if None not in mine
        ]
        able = [candidate for candidate in candidates if None in reasons[candidate.name]]
        prefetch(self.capacity, [("saturated", (candidate,)) for candidate in able])
        self.known = {candidate.name: self._survey(candidate, reasons[candidate.name]) for candidate in able}

    def _survey(self, candidate: Candidate, reasons: list[str | None]) -> Known:
        """The first look: rates with a full queue."""
        whole = self.capacity.saturated(candidate)
        if len(reasons) == 1:
            return Known(candidate, [whole], whole / self.workload.rate)
        rates = [0.0 if reason else self.capacity.saturated(candidate, b) for b, reason in enumerate(reasons)]
        return Known(candidate, rates, whole / self.workload.rate)

    def smoothen(self, names: Iterable[str]) -> bool:
        """Measure what these carry within the SLO without bursts; False where all is known already."""
        new = [self.known[name] for name in names if self.known[name].smooth is None]
        prefetch(self.capacity, [("smooth", (known.candidate, known.served)) for known in new])
        for known in new:
            self._smoothen(known)
        return bool(new)

    def _smoothen(self, known: Known) -> None:
        known.smooth = self.capacity.smooth(known.candidate, known.served)
        known.share = min(known.share, known.smooth.good / self.workload.rate)

    def anchor(self, name: str) -> bool:
        """Find how many replicas of this type alone carry the trace, from the least that might; False where known."""
        known = self.known[name]
        most = known.candidate.most
        if known.alone or not most:
            return False
        low, high = min(known.least, most) - 1, min(known.least, most)
        while not self.replay(known, high).met and high < most:
            low, high = high, min(max(high + 1, ceil(1.3 * high)), most)
        while known.alone[high].met and high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.replay(known, middle).met else (middle, high)
        if known.failed and known.needed and known.smooth and not self._bursts():
            known.pooled = self.capacity.pooled(known.candidate, known.failed, known.failed / known.needed)
        return True

    def replay(self, known: Known, replicas: int) -> Verdict:
        """A fleet of this type only on the whole trace."""
        plan = fleet_plan(self.inventory, {known.candidate.pool: replicas})
        capacity = self.capacity
        known.alone[replicas] = capacity.judge.replay(plan, self.workload.table, capacity.targets)
        return known.alone[replicas]

    def estimate(self, known: Known) -> float:
        """The share of the trace that a replica is thought to carry in a fleet."""
        if known.smooth is None:
            return known.share
        thought = known.smooth.low / self.workload.rate * (self._bursts() or _BURSTS)
        most = 1 / known.failed if known.failed else known.share
        return min(max(thought, 1 / known.needed if known.needed else 0.0), most)

    def _bursts(self) -> float:
        """What the trace's bursts leave of a smooth rate, from the types where it was measured; 0 where none was."""
        seen = [
            sqrt(known.pooled.low * known.pooled.high) * self.workload.rate / known.smooth.low
            for known in self.known.values()
            if known.pooled and known.smooth and known.smooth.low
        ]
        return median(seen) if seen else 0.0

    def problem(self, cuts: list[Counts], demand: float | None = None) -> Problem:
        """The program with what is known now: upper bounds, or estimates that sum to `demand` times the load."""
        inventory, targets = self.inventory, self.capacity.targets
        ttft, tpot, e2el = (targets.limit(metric) for metric in ("ttft", "tpot", "e2el"))
        late = min(e2el, ttft + tpot * float(self.workload.table.output_tokens.max()))
        windows, bad = self.workload.windows(), targets.allowed() * targets.requests
        scenarios = [
            Scenario(w.name, w.seconds + (late if late < inf else 0.0), tuple(map(float, w.arrivals)), bad)
            for w in (windows if late < inf else windows[:1])
        ]
        stock = {gpu: (stock.count, inventory.node_size(gpu)) for gpu, stock in inventory.gpus.items()}
        return Problem(
            tuple(self._offer(known, demand) for known in self.known.values()), tuple(scenarios), stock, self.goal,
            inventory.budget_per_hour or inf, inventory.spare, inventory.electricity_per_kwh, cuts=tuple(cuts),
            robust=(inventory.uncertainty, inventory.uncertain_kinds), allowed=targets.allowed(),
        )  # fmt: skip

    def _offer(self, known: Known, demand: float | None) -> Offer:
        c = known.candidate
        share = known.share if demand is None else self.estimate(known) / demand
        kept = known.smooth.low / self.capacity.saturated(c) if known.smooth else 1.0
        return Offer(
            c.name, c.gpu, c.gpus, c.usd_per_hour, c.most, tuple(known.rates), share, self.estimate(known),
            tuple(rate * kept for rate in known.rates), group=c.pool.tensor_parallel_size, role=c.pool.role,
            kv_tokens=float(c.kv_tokens),
            idle_watts=c.idle_watts or 0.0, busy_watts=c.busy_watts or 0.0,
        )  # fmt: skip
