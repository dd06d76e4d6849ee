"""From candidates to offers: what is measured of an instance type, and when: cheap points first, dear ones later."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, inf, sqrt
from statistics import median

from .candidates import Candidate, Rejected, fleet_plan
from .fleet import Counts, Goal, Offer, Problem, Scenario
from .judge import Verdict
from .points import Capacity, Interval

_BURSTS = 0.8  # of its smooth rate that a replica is thought to carry under bursts, before any is measured
_LOOSE = 1.25  # ratio of an interval that is worth a closer look


@dataclass
class Known:
    """What is known of a candidate. Rates and share sink as better measurements come in; they are upper bounds.

    rates : requests/s by bucket of a replica; 0 where the SLO excludes it. share : of the trace, of a replica.
    smooth : requests/s without bursts. pooled : share of the trace of a replica, as part of a pool under its bursts.
    alone : replays of fleets of this type only, by replicas. seconds : that a request stays at the smooth rate.
    """

    candidate: Candidate
    rates: list[float]
    share: float
    smooth: Interval | None = None
    pooled: Interval | None = None
    alone: dict[int, Verdict] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def needed(self) -> int | None:
        """Replicas that carry the trace without help; None where no number that is there does."""
        return min((n for n, verdict in self.alone.items() if verdict.met), default=None)

    @property
    def least(self) -> int:
        """Replicas below which they cannot carry the trace without help."""
        return ceil(1 / self.share - 1e-9) if self.share else self.candidate.most + 1


class Market:
    """Measures the candidates of a search, no more than the programs ask for."""

    def __init__(self, capacity: Capacity, candidates: list[Candidate], goal: Goal = "cost") -> None:
        self.capacity, self.goal = capacity, goal
        self.workload, self.inventory = capacity.workload, capacity.inventory
        self.rejected: list[Rejected] = []
        self.known: dict[str, Known] = {}
        for candidate in candidates:
            self._survey(candidate)

    def _survey(self, candidate: Candidate) -> None:
        """Isolated latency and saturated rate: the first look at a candidate."""
        reasons = self.capacity.alone(candidate)
        if all(reason is not None for reason in reasons):
            self.rejected.append(Rejected(candidate.name, f"misses the SLO without any other request: {reasons[0]}"))
            return
        whole = self.capacity.saturated(candidate)
        several = len(reasons) > 1
        rates = [
            0.0 if reason else self.capacity.saturated(candidate, b) if several else whole
            for b, reason in enumerate(reasons)
        ]
        self.known[candidate.name] = Known(candidate, rates, whole / self.workload.rate)

    def smoothen(self, name: str) -> bool:
        """Measure what it carries within the SLO without bursts; False where that is known already."""
        known = self.known[name]
        if known.smooth is not None:
            return False
        known.smooth, known.seconds = self.capacity.smooth(known.candidate)
        known.share = min(known.share, known.smooth.high / self.workload.rate)
        if len(known.rates) > 1:
            for bucket, rate in enumerate(known.rates):
                known.rates[bucket] = min(rate, self.capacity.smooth(known.candidate, bucket)[0].high) if rate else 0.0
        else:
            known.rates[0] = min(known.rates[0], known.smooth.high)
        return True

    def anchor(self, name: str) -> bool:
        """Find how many replicas of this type alone carry the trace, from the least that might; False where known."""
        known = self.known[name]
        most = known.candidate.most
        if known.alone or not most:
            return False
        low, high = min(known.least, most) - 1, min(known.least, most)
        while not self._replay(known, high).met and high < most:
            low, high = high, min(max(high + 1, ceil(1.3 * high)), most)
        while known.alone[high].met and high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._replay(known, middle).met else (middle, high)
        failed = max((n for n, verdict in known.alone.items() if not verdict.met), default=0)
        if failed:
            known.share = min(known.share, 1 / failed)
        self._pool(known, failed)
        return True

    def _pool(self, known: Known, failed: int) -> None:
        """What a replica carries in a pool: between 1 / needed and 1 / (needed - 1), or from thinned traces."""
        bounds = Interval(1 / known.needed, known.share) if known.needed else None
        if failed and (bounds is None or bounds.high > bounds.low * _LOOSE):
            share = self.capacity.pooled(known.candidate, failed)
            bounds = Interval(max(share.low / failed, bounds.low if bounds else 0.0), known.share)
            bounds = Interval(bounds.low, max(bounds.low, min(known.share, share.high / failed)))
        known.pooled = bounds

    def _replay(self, known: Known, replicas: int) -> Verdict:
        plan = fleet_plan(self.inventory, {known.candidate.pool: replicas})
        capacity = self.capacity
        known.alone[replicas] = capacity.judge.replay(plan, self.workload.table, capacity.targets)
        return known.alone[replicas]

    def estimate(self, known: Known) -> float:
        """The share of the trace that a replica is thought to carry in a fleet."""
        if known.pooled:
            return sqrt(known.pooled.low * known.pooled.high)
        if known.smooth is None:
            return known.share
        return known.smooth.low / self.workload.rate * self._bursts()

    def _bursts(self) -> float:
        """What bursts leave of a smooth rate, from the types where both are known."""
        seen = [
            sqrt(known.pooled.low * known.pooled.high) * self.workload.rate / known.smooth.low
            for known in self.known.values()
            if known.pooled and known.smooth and known.smooth.low
        ]
        return median(seen) if seen else _BURSTS

    def problem(self, cuts: list[Counts], demand: float = 1.0) -> Problem:
        """The program with what is known now; `demand` scales what the fleet must carry."""
        inventory, targets = self.inventory, self.capacity.targets
        ttft, tpot, e2el = (targets.limit(metric) for metric in ("ttft", "tpot", "e2el"))
        late = min(e2el, ttft + tpot * float(self.workload.table.output_tokens.max()))
        windows = self.workload.windows()
        scenarios = [
            Scenario(
                w.name, w.seconds + (late if late < inf else 0.0), tuple(map(float, w.arrivals)), targets.allowed()
            )
            for w in (windows if late < inf else windows[:1])
        ]
        stock = {gpu: (stock.count, inventory.node_size(gpu)) for gpu, stock in inventory.gpus.items()}
        return Problem(
            tuple(self._offer(known, demand) for known in self.known.values()), tuple(scenarios), stock, self.goal,
            inventory.budget_per_hour or inf, inventory.spare, inventory.electricity_per_kwh, cuts=tuple(cuts),
            robust=(inventory.uncertainty, inventory.uncertain_kinds),
        )  # fmt: skip

    def _offer(self, known: Known, demand: float) -> Offer:
        c = known.candidate
        share = known.share if demand == 1 else self.estimate(known) / demand
        return Offer(
            c.name, c.gpu, c.gpus, c.usd_per_hour, c.most, tuple(known.rates), share, self.estimate(known),
            group=c.pool.tensor_parallel_size, role=c.pool.role, kv_tokens=float(c.kv_tokens),
            idle_watts=c.idle_watts or 0.0, busy_watts=c.busy_watts or 0.0,
        )  # fmt: skip
