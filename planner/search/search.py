"""Search with simulation in the loop: the program proposes fleets, replays of the trace accept or cut them.

1. Solve the program with optimistic capacities, and measure the types that its answer uses until it uses measured types
   only. Fleets of one type that meet the SLO are the first incumbents.
2. Ask for cheaper fleets, the ones thought to carry most at a price between bound and incumbent, and replay them. One
   that meets the SLO is the new incumbent; one that misses it is cut, with all that it contains.
3. Stop when no cheaper fleet is left, none is promising, the gap is small enough, or replays are used up.

Optimistic capacities make the program's answer a bound on the price in its capacity model, cuts included.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

from ..candidates import Candidate, Rejected
from ..measure.judge import Verdict
from ..milp import Outcome, relative_gap
from ..program.fleet import Fleet, solve_fleet
from ..program.problem import Aim, Counts, Problem, below, undominated
from ..program.promise import Routing, balance
from ..program.zones import connected, stay_near
from .market import Market
from .planfile import plan_of, values_of

_STEP = 1e-6  # share of the price by which a cheaper fleet must be cheaper
_HOPELESS = 0.75  # of the load, or of what the best fleet is thought to carry: less is not replayed
_NEAR = 2.0  # times the misses that may be: chance decides, and a smaller fleet with another routing may do
_LITTLE = 0.98  # of what a fleet promises: what zones that keep to themselves may leave of it
_CLOSED = 0.98  # of the best price: no search for better ones between
_PATIENCE = 7  # promising fleets that may miss one after the other
_NONE_LEFT = "no cheaper fleet is left in the relaxed model"
_IDLE = 4  # fleets that may miss one after the other without raising the bound
_DEMANDS = (1.05, 1.25, 1.5, 2.0)  # of the load, for a first fleet where no single type will do


@dataclass(frozen=True)
class Tried:
    """A fleet and what its replay said. price : as the goal has it. values : of the plan file."""

    counts: Counts
    usd_per_hour: float
    watts: float
    price: float
    verdict: Verdict
    values: dict[str, Any]

    @property
    def name(self) -> str:
        return " + ".join(f"{n} x {name}" for name, n in sorted(self.counts.items()))

    @property
    def settled(self) -> bool:
        """Whether it shall not be proposed again, though smaller fleets may be: a near miss, or one that met the SLO
        and whose power the program may still think less than it was."""
        return self.price != self.usd_per_hour if self.verdict.met else self.verdict.beyond < _NEAR


@dataclass(frozen=True)
class Found:
    """best : the cheapest fleet that met the SLO. bound : of the price in the relaxed model. tried : by price."""

    best: Tried | None
    bound: float
    tried: list[Tried]
    rejected: list[Rejected]
    stopped: str
    relaxation: Fleet | Outcome
    problem: Problem = field(repr=False)

    @property
    def gap(self) -> float | None:
        """Relative; 0 where no cheaper fleet is left in the model."""
        return None if self.best is None else relative_gap(self.best.price, self.bound)


class Search:
    """One search on a market."""

    def __init__(self, market: Market, *, solver: str, replays: int = 40, gap: float = 0.0, diverse: int = 3) -> None:
        """replays : of mixed fleets, at most. gap : relative, that is small enough. diverse : fleets tried a round."""
        self.market, self.solver = market, solver
        self._replays = self._left = replays
        self._gap, self._diverse = gap, diverse
        self._tried: dict[tuple[tuple[str, int], ...], Tried] = {}
        self._cuts: list[Counts] = []
        self._best: Tried | None = None
        self._misses = 0  # of promising fleets, since one met the SLO
        self._floor = 0.0  # the highest price at which what promised most missed the SLO clearly

    def run(self) -> Found:
        """The cheapest fleet that meets the SLO, as far as the replays allow."""
        stopped = ""
        while not stopped:
            stopped = self._step()
            proven = stopped == _NONE_LEFT
            if stopped and (self._trim() or (not proven and (self._disprove() or self._regroup()))):
                stopped = ""
        relaxation = self._solve()
        bound = self._best.price if self._best else inf
        outcome = relaxation.outcome if isinstance(relaxation, Fleet) else relaxation
        if outcome.status != "infeasible":
            bound = min(bound, outcome.bound or 0.0)
        if self._best and bound >= self._best.price * (1 - _STEP):
            stopped = _NONE_LEFT
        tried = sorted(self._tried.values(), key=lambda t: (t.price, t.name))
        return Found(self._best, bound, tried, self.market.rejected, stopped, relaxation, self.problem())

    def beside(self) -> Search:
        """One that knows the same, for another process."""
        twin = copy.copy(self)
        twin.market = self.market.beside()
        return twin

    def problem(self) -> Problem:
        """The program with all that is known; see `Market.problem`."""
        return self.market.problem(self._cuts)

    def _solve(self, aim: Aim = "price", avoid: Sequence[Counts] = (), **limits: Any) -> Fleet | Outcome:
        settled = [tried.counts for tried in self._tried.values() if tried.settled]
        avoid = [*settled, *(counts for counts in avoid if counts not in settled)]
        problem = undominated(self.problem(), avoid)
        if self._best:
            problem = below(problem, self._best.price * (1 - _STEP))
        return solve_fleet(problem, aim, solver=self.solver, avoid=avoid, **limits)

    def _step(self) -> str:
        """One round; returns why the search is over, or nothing."""
        answer = self._solve()
        if not isinstance(answer, Fleet):
            if answer.status == "time limit":
                return "the program's time limit"
            return _NONE_LEFT if self._best else "infeasible"
        if self._learn(answer):
            return ""
        if self._best is None:
            return "" if self._first() else "no fleet met the SLO"
        bound = answer.outcome.bound or 0.0
        if bound >= self._best.price * (1 - _STEP):
            return _NONE_LEFT
        if relative_gap(self._best.price, bound) <= self._gap:
            return f"the gap is at most {self._gap:.1%}"
        return self._cheaper(bound, self._best.price)

    def _trim(self) -> bool:
        """Try the best fleet without one of its replicas; whether that was good enough as well."""
        before = self._best
        for name, n in before.counts.items() if before else ():
            fewer = {**before.counts, name: n - 1} if before else {}
            if fewer and self.complete(fewer):
                self.attempt({key: value for key, value in fewer.items() if value})
        return self._best is not before

    def _disprove(self) -> bool:
        """Replay the cheapest fleets of the model, whatever they promise: most miss within few requests, and with each
        cut the bound may rise. It takes no more requests than a replay. Whether one of them met the SLO."""
        best, low, idle, spent = self._best, 0.0, 0, 0
        while best and self._best is best and self._left and idle < _IDLE and spent < len(self.market.workload.table):
            answer = self._solve()
            bound = answer.outcome.bound or 0.0 if isinstance(answer, Fleet) else inf
            if not isinstance(answer, Fleet) or bound >= best.price * (1 - max(self._gap, _STEP)):
                break
            idle = idle + 1 if bound <= low * (1 + _STEP) else 0
            low = bound
            spent += self.attempt(answer.counts).verdict.requests
        return self._best is not best

    def _regroup(self) -> bool:
        """Replay the most promising of the fleets that have the best one's GPUs in replicas of another size or setting,
        and one replica less: promises of such fleets are too close to choose by. Whether one met the SLO."""
        best = self._best
        if best is None or not self._left:
            return False
        fewer = [{**same, name: n - 1} for same in self._same_gpus(best.counts) for name, n in same.items()]
        fleets = [{name: n for name, n in counts.items() if n} for counts in fewer]
        fresh = [c for c in fleets if self.complete(c) and not any(_within(c, cut) for cut in self._cuts)]
        unique = {tuple(sorted(c.items())): c for c in fresh if self.least_price(c) < best.price * (1 - _STEP)}
        ranked = sorted((c for key, c in unique.items() if key not in self._tried), key=lambda c: -self.route(c)[0])
        return any(self.attempt(counts).verdict.met for counts in ranked[: min(self._diverse, self._left)])

    def _same_gpus(self, counts: Counts) -> Iterator[Counts]:
        """Fleets in which one type makes room for another on the same GPUs."""
        members = self._members(counts)
        for old, n in members.items():
            for new in (known.candidate for known in self.market.known.values()):
                replicas = n * old.gpus // new.gpus
                if new is not old and (new.gpu, new.role) == (old.gpu, old.role) and replicas:
                    rest = {name: k for name, k in counts.items() if name != old.name}
                    yield {**rest, new.name: rest.get(new.name, 0) + replicas}

    def complete(self, counts: Counts) -> bool:
        """Whether it serves requests, with nobody who would have nothing to do or no way to hand over."""
        places, inventory = self._places(counts), self.market.inventory
        roles = {role for role, _ in places}
        linked = connected(places, inventory.zone_pairs(), inventory.may_stay_near)
        return bool(roles) and ("prefill" in roles) == ("decode" in roles) and linked

    def _learn(self, answer: Fleet) -> bool:
        """Measure types that `answer` uses; False where nothing is left to measure."""
        if self.market.sharpen(answer.counts):
            return True
        for name in answer.counts:
            known = self.market.known[name]
            if self.market.anchor(name, self._affordable(known.candidate)):
                for n, verdict in known.alone.items():
                    self._note({name: n}, verdict)
                return True
        return False

    def _first(self) -> bool:
        """A first fleet, where no single type carries the load: the cheapest for more and more of it, then the most."""
        for demand in _DEMANDS:
            answer = self._measured(promised=demand)
            if not isinstance(answer, Fleet) or not self._left:
                break
            if self.attempt(answer.counts).verdict.met:
                return True
        avoid: list[Counts] = []
        while len(avoid) < _PATIENCE and self._left:
            most = self._measured("promise", avoid=avoid)
            if not isinstance(most, Fleet):
                break
            if self.attempt(most.counts).verdict.met:
                return True
            avoid.append(most.counts)
        return False

    def _measured(self, *aim: Any, **limits: Any) -> Fleet | Outcome:
        """An answer of the program with types that are all measured."""
        while True:
            answer = self._solve(*aim, **limits)
            if not isinstance(answer, Fleet) or not self.market.sharpen(answer.counts):
                return answer

    def _cheaper(self, low: float, high: float) -> str:
        """Replay promising fleets between two prices, the dearer ones if a cheap one misses."""
        self.market.feel_bursts()
        avoid: list[Counts] = []
        most = (max(low, self._floor if self._floor < _CLOSED * high else low) + high) / 2
        assert self._best is not None
        promised = _HOPELESS * min(1.0, self.route(self._best.counts)[0])
        for _ in range(self._diverse):
            if not self._left:
                return f"the limit of {self._replays} replays is reached"
            proposal = self._solve("promise", most=most, avoid=avoid)
            if not isinstance(proposal, Fleet) or proposal.promise < promised:
                if most >= high * (1 - _STEP):
                    return "" if avoid else "no cheaper fleet is promising"
                most = high * (1 - _STEP)
                continue
            if self._learn(proposal):
                return ""
            if self._misses == _PATIENCE:
                return f"the {_PATIENCE} cheaper fleets that promised most all missed the SLO"
            avoid.append(proposal.counts)
            tried = self.attempt(proposal.counts)
            self._misses = 0 if tried.verdict.met else self._misses + 1
            if tried.verdict.met:
                return ""
            soon = tried.verdict.requests * _NEAR <= len(self.market.workload.table)
            if soon:  # it had missed all that it might before half of the trace
                self._floor = max(self._floor, tried.price)
            most = min((most + high) / 2, high * (1 - _STEP))
        return ""

    def attempt(self, counts: Counts) -> Tried:
        """Replay a fleet, and remember what came out."""
        known = self._tried.get(tuple(sorted(counts.items())))
        if known:
            return known
        self._left -= 1
        values = self.values(counts)
        return self._note(counts, self.market.capacity.replay(plan_of(values)), values)

    def missed(self) -> list[Counts]:
        """Fleets whose replay missed the SLO."""
        return [tried.counts for tried in self._tried.values() if not tried.verdict.met]

    def route(self, counts: Counts) -> tuple[float, Routing]:
        """What a fleet is thought to carry, and how."""
        return self._balance(counts, self.near(counts))

    def _balance(self, counts: Counts, near: bool) -> tuple[float, Routing]:
        problem = self.problem()
        return balance(replace(problem, links={}) if near else problem, counts, self.solver)

    def near(self, counts: Counts) -> bool:
        """Whether a fleet decodes prompts in the zone where they are computed: where it must, or loses nothing."""
        places, inventory = self._places(counts), self.market.inventory
        if not (inventory.may_stay_near and stay_near(places)):
            return False
        apart, together = (self._balance(counts, near)[0] for near in (True, False))
        return apart >= _LITTLE * together or not connected(places, inventory.zone_pairs(), near=False)

    def values(self, counts: Counts) -> dict[str, Any]:
        """The plan of a fleet, with its load balanced over its types."""
        market, members = self.market, self._members(counts)
        seconds = {c.name: market.known[c.name].smooth.seconds for c in members}
        near = self.near(counts)
        routing = self._balance(counts, near)[1]
        affinity = market.workload.prefixes is not None
        return values_of(market.inventory, members, routing, market.workload.bounds, seconds, near, affinity)

    def _places(self, counts: Counts) -> set[tuple[str, str]]:
        """Roles and zones of a fleet's replicas."""
        return {(c.role, c.pool.fabric) for c, n in self._members(counts).items() if n}

    def _members(self, counts: Counts) -> dict[Candidate, int]:
        return {self.market.known[name].candidate: n for name, n in sorted(counts.items())}

    def least_price(self, counts: Counts) -> float:
        """What a fleet costs that idles."""
        members = self._members(counts).items()
        return self._price(
            sum(c.usd_per_hour * n for c, n in members), sum((c.idle_watts or 0.0) * n for c, n in members)
        )

    def _price(self, usd: float, watts: float) -> float:
        return watts if self.market.goal == "energy" else usd + self.market.inventory.electricity_per_kwh / 1e3 * watts

    def _affordable(self, candidate: Candidate) -> float:
        """Replicas that are cheaper than the best fleet, at work all the time."""
        each = self._price(candidate.usd_per_hour, self.market.known[candidate.name].busy_watts)
        return self._best.price * (1 - _STEP) // (each or inf) if self._best else inf

    def _note(self, counts: Counts, verdict: Verdict, values: dict[str, Any] | None = None) -> Tried:
        usd = sum(c.usd_per_hour * n for c, n in self._members(counts).items())
        self.market.learn(counts, verdict)
        price = self._price(usd, verdict.watts)
        tried = Tried(counts, usd, verdict.watts, price, verdict, values or self.values(counts))
        self._tried[tuple(sorted(counts.items()))] = tried
        self.market.capacity.judge.log(
            f"${usd:.2f}/h {tried.name}: {'meets the SLO' if verdict.met else verdict.missed}"
        )
        affordable = usd <= (self.market.inventory.budget_per_hour or inf)
        if verdict.met and affordable and (self._best is None or tried.price < self._best.price):
            self._best = tried
        clear = not verdict.met and verdict.beyond >= _NEAR
        if clear and not any(_within(counts, cut) for cut in self._cuts):
            self._cuts = [cut for cut in self._cuts if not _within(cut, counts)] + [counts]
        return tried


def _within(small: Counts, large: Counts) -> bool:
    return all(large.get(name, 0) >= n for name, n in small.items())
