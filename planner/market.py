"""From candidates to offers: what is measured of an instance type and when, cheap points first, dear ones on demand."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil, inf, sqrt
from statistics import median

from .candidates import Candidate, Rejected, fleet_plan
from .fleet import Counts, Goal, Offer, Problem, Scenario
from .judge import Verdict
from .points import Capacity, Interval
from .workload import Workload

_BURSTS = 0.8  # of its smooth rate that a replica is thought to carry under bursts, before any is measured


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
        """`capacity` comes with buckets; they are dropped where every candidate serves all of them or none."""
        self.goal = goal
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
        self.known = {c.name: self._survey(c, reasons[c.name]) for c in candidates if None in reasons[c.name]}

    def _survey(self, candidate: Candidate, reasons: list[str | None]) -> Known:
        """The first look: rates with a full queue."""
        whole = self.capacity.saturated(candidate)
        if len(reasons) == 1:
            return Known(candidate, [whole], whole / self.workload.rate)
        rates = [0.0 if reason else self.capacity.saturated(candidate, b) for b, reason in enumerate(reasons)]
        return Known(candidate, rates, whole / self.workload.rate)

    def smoothen(self, name: str) -> bool:
        """Measure what it carries within the SLO without bursts; False where that is known already.

        The SLO takes the same part off the rates of all buckets.
        """
        known = self.known[name]
        if known.smooth is not None:
            return False
        known.smooth, known.seconds = self.capacity.smooth(known.candidate)
        kept = min(1.0, known.smooth.high / self.workload.rate / known.share)
        known.rates = [rate * kept for rate in known.rates]
        known.share *= kept
        return True

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
        failed = max((n for n, verdict in known.alone.items() if not verdict.met), default=0)
        if failed:
            known.share = min(known.share, 1 / failed)
        if failed and known.smooth and not self._bursts():
            known.pooled = self.capacity.pooled(known.candidate, failed, failed / (known.needed or 4 * failed))
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
        return min(max(thought, 1 / known.needed if known.needed else 0.0), known.share)

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

    def _offer(self, known: Known, demand: float | None) -> Offer:
        c = known.candidate
        share = known.share if demand is None else self.estimate(known) / demand
        return Offer(
            c.name, c.gpu, c.gpus, c.usd_per_hour, c.most, tuple(known.rates), share, self.estimate(known),
            group=c.pool.tensor_parallel_size, role=c.pool.role, kv_tokens=float(c.kv_tokens),
            idle_watts=c.idle_watts or 0.0, busy_watts=c.busy_watts or 0.0,
        )  # fmt: skip
