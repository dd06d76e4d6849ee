"""From candidates to offers: what is measured of an instance type and when, cheap points first, dear ones on demand."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, inf, log, sqrt
from typing import Any

import numpy as np

from ..candidates import Candidate, Rejected
from ..dominance import better_of
from ..measure.judge import Verdict
from ..measure.parallel import Point, prefetch
from ..measure.points import Capacity, Interval, Isolated, Smooth, smooth_of
from ..measure.prefixes import Prefixes
from ..measure.targets import misses_phase, rare
from ..measure.workload import Workload
from ..program.demand import needed, scenarios
from ..program.problem import Counts, Goal, Misses, Offer, Problem
from ..program.promise import lower_hull
from ..program.transfers import Closed, closed_pairs, without

_LESS = 0.99  # of what a pool was thought to carry, after a miss
_SAME = 0.98  # of a capacity: a program's answer still stands
_BURSTS = 0.8  # of its smooth rate that a replica is thought to carry under bursts, before any is measured


@dataclass
class Known:
    """What is known of a candidate.

    top : requests/s with a full queue. rates, prompt_rates : the same by bucket, of requests and of prompts alone; 0
    where the SLO excludes the bucket. cold_rates : of requests that find no prefix.
    isolated : by bucket, its requests alone. rate : of the trace, requests/s. busy_watts : with a full queue, 0 where
    unknown. probes : of the smooth rate.
    pooled : share of the trace that a replica carries, by replicas of its pool. alone : fleets of this type only, by
    replicas.
    """

    candidate: Candidate
    top: float
    rates: list[float]
    prompt_rates: list[float]
    cold_rates: list[float]
    isolated: list[Isolated]
    rate: float
    busy_watts: float
    probes: dict[float, Verdict] = field(default_factory=dict)
    pooled: dict[int, Interval] = field(default_factory=dict)
    alone: dict[int, Verdict] = field(default_factory=dict)

    @property
    def smooth(self) -> Smooth:
        """What it carries without bursts, as far as it was asked."""
        return smooth_of(self.probes, self.top)

    @property
    def share(self) -> float:
        """Of the trace that a replica gets done within the limits at best."""
        return min(self.top, self.smooth.good) / self.rate

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
        capacity = replace(capacity, workload=_with_prefixes(capacity, candidates))
        prefetch(capacity, _families([("alone", (candidate,)) for candidate in candidates]))
        isolated = {candidate.name: capacity.alone(candidate) for candidate in candidates}
        if not any(0 < sum(i.missed is None for i in mine) < len(mine) for mine in isolated.values()):
            shares = capacity.workload.shares
            capacity = replace(capacity, workload=capacity.workload.whole())
            isolated = {name: [_together(mine, shares)] for name, mine in isolated.items()}
        self.capacity, self.workload, self.inventory = capacity, capacity.workload, capacity.inventory
        self._bursts_of = dict.fromkeys(("prefill", "decode"), (0.0, inf))
        self._closed: Closed | None = None
        self.rejected = [
            Rejected(name, f"misses the SLO without any other request: {mine[0].missed}")
            for name, mine in isolated.items()
            if all(i.missed for i in mine)
        ]
        able = [candidate for candidate in candidates if not all(i.missed for i in isolated[candidate.name])]
        full = {candidate.name: _full_queues(candidate, isolated[candidate.name]) for candidate in able}
        points: list[Point] = [("saturated", queue) for queues in full.values() for queue in queues]
        points += [("prompts", queue) for c in able if c.role == "mixed" for queue in _served_apart(full[c.name])]
        points += [("cold", queue) for c in able if self._may_find(c) for queue in _served_apart(full[c.name])]
        prefetch(self.capacity, _families(points))
        figures = {c.name: (c.pace, (c.kv_tokens, c.inside, c.network)) for c in able}
        self._better = better_of(figures)
        attention = max((c.pace.attention for c in able), default=0.0)
        self._scenarios = scenarios(self.workload, capacity.targets, attention)
        self._needed = needed(self.workload, capacity.targets, attention)
        self.known = {candidate.name: self._survey(candidate, isolated[candidate.name]) for candidate in able}

    def _survey(self, candidate: Candidate, isolated: list[Isolated]) -> Known:
        """The first look: rates with a full queue."""
        queues = _full_queues(candidate, isolated)
        top, *others = (self.capacity.saturated(*queue) for queue in queues)
        rates = _by_bucket(others or [top], isolated)
        prompts = {"mixed": [], "prefill": rates, "decode": [0.0 for _ in rates]}[candidate.role]
        alone = [self.capacity.prompts(*queue) for queue in (() if prompts else _served_apart(queues))]
        prompts = prompts or _by_bucket(alone, isolated)
        cold = [self.capacity.cold(*queue) for queue in (_served_apart(queues) if self._may_find(candidate) else ())]
        watts = self.capacity.busy_watts(candidate)
        return Known(
            candidate, top, rates, prompts, _by_bucket(cold, isolated) if cold else rates, isolated, self.workload.rate,
            watts,
        )  # fmt: skip

    def _may_find(self, candidate: Candidate) -> bool:
        """Whether there is anything in its prefix cache for the work of its role."""
        return self.workload.prefixes is not None and candidate.caches and candidate.role != "decode"

    def beside(self) -> Market:
        """One that knows the same, with a judge that counts for itself."""
        twin = copy.copy(self)
        twin.capacity = replace(self.capacity, judge=self.capacity.judge.worker())
        return twin

    def refine(self, names: Iterable[str]) -> bool:
        """Try another smooth rate of each of these; False where all are known well enough."""
        wanted = [(known, known.smooth.next) for known in map(self.known.__getitem__, names)]
        points = [(known, (known.candidate, known.served, rate)) for known, rate in wanted if rate]
        prefetch(self.capacity, [[("at_rate", arguments)] for _, arguments in points])
        for known, arguments in points:
            known.probes[arguments[2]] = self.capacity.at_rate(*arguments)
        return bool(points)

    def sharpen(self, names: Iterable[str]) -> bool:
        """Measure these until one turns out to carry less than was thought; False where all are known well enough."""
        names = list(names)
        thought = {name: self.known[name].share for name in names}
        learned = False
        while all(self.known[name].share >= _SAME * share for name, share in thought.items()) and self.refine(names):
            learned = True
        return learned

    def smoothen(self, names: Iterable[str]) -> None:
        """Measure what these carry within the SLO without bursts."""
        names = list(names)
        while self.refine(names):
            pass

    def anchor(self, name: str, most: float = inf) -> bool:
        """Find how many of this type alone carry the trace, up to `most`; False where there is nothing to try."""
        known = self.known[name]
        most = int(min(most, known.candidate.most))
        low = max(known.least - 1, known.failed)
        if known.needed or low >= most or known.candidate.role != "mixed":
            return False
        high = low + 1
        while not self.replay(known, high).met and high < most:
            low, high = high, min(max(high + 1, ceil(1.3 * high)), most)
        while known.alone[high].met and high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.replay(known, middle).met else (middle, high)
        return True

    def feel_bursts(self) -> None:
        """Find, once, what the trace's bursts leave of a replica by itself and in a pool that is just large enough, of
        a type that was tried alone."""
        tried = [known for known in self.known.values() if known.failed and known.needed]
        if tried and not any(known.pooled for known in tried):
            known = min(tried, key=lambda known: known.needed or inf)
            known.pooled[1] = self.capacity.pooled(known.candidate, 1, 0.0, min(1.0, known.share))
            known.pooled[known.needed or 1] = Interval(1 / (known.needed or inf), 1 / known.failed)

    def replay(self, known: Known, replicas: int) -> Verdict:
        """A fleet of this type only on the whole trace."""
        known.alone[replicas] = self.capacity.replay(self.capacity.one_type(known.candidate, replicas))
        return known.alone[replicas]

    def _late(self, known: Known) -> Misses:
        """By objective, lines below the misses that were measured, at rates that bursts have made smaller."""
        if not known.probes:
            return ()
        smooth, pace = known.smooth, self._pace(known)
        lines = []
        for o, objective in enumerate(self.capacity.targets.phase(known.candidate.role, 1).slo.objectives):
            if rare(objective):
                points = [(rate, rate * verdict.over[o]) for rate, verdict in known.probes.items()]
                lines.append((objective.text, tuple((slope, pace * y) for slope, y in lower_hull(points))))
            else:
                lines.append((objective.text, ((0.0, 0.0), (1.0, -pace * smooth.low))))
        return tuple(lines)

    def _pace(self, known: Known) -> float:
        """What bursts leave of a smooth rate of this type, not at odds with what it did alone."""
        pace, low = self._bursts(known), known.smooth.low / self.workload.rate
        if known.failed and low:
            pace = min(pace, 1 / (known.failed * low))
        return max(pace, 1 / (known.needed * low)) if known.needed and low else pace

    def _bursts(self, known: Known) -> float:
        """What the trace's bursts leave of a smooth rate: by the size of pools, where some were measured, less for
        smaller ones; of roles, from replays."""
        curve = {
            n: sqrt(share.low * share.high) * self.workload.rate / other.smooth.low
            for other in self.known.values() for n, share in sorted(other.pooled.items()) if other.smooth.low
        }  # fmt: skip
        replicas = known.needed or min(known.least, known.candidate.most)
        pace = float(np.interp(log(replicas), np.log(list(curve)), list(curve.values()))) if curve else _BURSTS
        low, high = self._bursts_of.get(known.candidate.role, (0.0, inf))
        return min(max(pace, low), high)

    def learn(self, counts: Counts, verdict: Verdict) -> None:
        """What a replay of prefill and decode replicas says of bursts: together they carried the trace, or did not."""
        members = [(self.known[name], n) for name, n in counts.items()]
        for role in self._bursts_of if any(known.candidate.role != "mixed" for known, _ in members) else ():
            mine = sum(k.smooth.low * n for k, n in members if k.candidate.role in (role, "mixed")) / self.workload.rate
            low, high = self._bursts_of[role]
            if not mine:
                continue
            if verdict.met:
                self._bursts_of[role] = max(low, 1 / mine), max(high, 1 / mine)
            elif misses_phase(verdict.objectives, role):
                self._bursts_of[role] = low, max(low, min(high, _LESS / mine))

    def problem(self, cuts: list[Counts]) -> Problem:
        """The program with what is known now."""
        inventory, targets = self.inventory, self.capacity.targets
        stock = {gpu: (stock.count, inventory.node_size(gpu)) for gpu, stock in inventory.gpus.items()}
        zones = {gpu: stock.zone for gpu, stock in inventory.gpus.items() if stock.zone}
        links = {ends: link.bandwidth for ends, link in inventory.zone_pairs().items()}
        problem = Problem(
            tuple(self._offer(known) for known in self.known.values()), self._scenarios, stock, self.goal,
            inventory.budget_per_hour or inf, inventory.spare, inventory.electricity_per_kwh, zones, links,
            near=inventory.may_stay_near, cuts=tuple(cuts), better=self._better, needed=self._needed,
            robust=(inventory.uncertainty, inventory.uncertain_kinds),
            rare={o.text: rare(o) for o in targets.local(1).slo.objectives},
            rates=tuple(share * self.workload.rate for share in self.workload.shares),
        )  # fmt: skip
        if self._closed is None:
            isolated = {name: known.isolated for name, known in self.known.items()}
            self._closed = closed_pairs(problem, self.capacity, isolated)
        return without(problem, self._closed)

    def _offer(self, known: Known) -> Offer:
        c = known.candidate
        sent = [c.kv.request_bytes(round(tokens)) for tokens in self.workload.mean_computed]
        prefixes, tpot = self.workload.prefixes if self._may_find(c) else None, min(i.tpot for i in known.isolated)
        spared = (
            1 / cold - 1 / rate if rate else 0.0 for cold, rate in zip(known.cold_rates, known.rates, strict=True)
        )
        own = zip(known.isolated, self.workload.own_context, strict=True)
        return Offer(
            c.name, c.gpu, c.gpus, c.usd_per_hour, c.most, tuple(known.rates), known.share, self._late(known),
            tuple(known.prompt_rates), group=c.pool.tensor_parallel_size, role=c.pool.role,
            kv_tokens=float(c.kv_tokens), resident=tuple(i.token_seconds * share for i, share in own),
            held=prefixes.held(self.workload.bucket, len(known.rates), tpot) if prefixes else (),
            spared=tuple(max(0.0, seconds) for seconds in spared),
            kv_format=c.pool.kv_cache_dtype, kv_bytes=tuple(sent), idle_watts=c.idle_watts or 0.0,
            busy_watts=known.busy_watts, inside=c.inside, network=c.network,
        )  # fmt: skip


def _with_prefixes(capacity: Capacity, candidates: Sequence[Candidate]) -> Workload:
    """With what prefix caches can spare, if there are any and a plan's `reuse` does not say what is found."""
    workload = capacity.workload
    if workload.table.blocks is None or "reuse" in capacity.inventory.plan or not any(c.caches for c in candidates):
        return workload
    prefixes = Prefixes.of(workload.table)
    return replace(workload, prefixes=prefixes) if prefixes.spared.any() else workload


def _full_queues(candidate: Candidate, isolated: list[Isolated]) -> list[tuple[Any, ...]]:
    """What is asked of a candidate first: all requests together, and each bucket that it can serve."""
    buckets = [b for b, i in enumerate(isolated) if not i.missed] if len(isolated) > 1 else []
    return [(candidate,), *((candidate, bucket) for bucket in buckets)]


def _by_bucket(rates: Sequence[float], isolated: Sequence[Isolated]) -> list[float]:
    """Of each bucket; 0 where the SLO excludes it."""
    given = iter(rates)
    return [0.0 if i.missed else next(given) for i in isolated]


def _served_apart(queues: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Those of single buckets, or the one of all requests where there is but one bucket."""
    return queues[1:] or queues


def _families(points: Iterable[Point]) -> list[list[Point]]:
    """Points of candidates, those with the same step times together."""
    families: dict[Any, list[Point]] = {}
    for kind, (candidate, *more) in points:
        pool = candidate.pool
        same = pool.hardware, pool.tensor_parallel_size, pool.pipeline_parallel_size, pool.data_parallel_size
        families.setdefault(same, []).append((kind, (candidate, *more)))
    return list(families.values())


def _together(isolated: list[Isolated], shares: Sequence[float]) -> Isolated:
    """All buckets as one."""
    seconds = sum(i.token_seconds * share for i, share in zip(isolated, shares, strict=True))
    return Isolated(isolated[0].missed, seconds, min(i.tpot for i in isolated))
