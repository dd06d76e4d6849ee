"""The fleet as a mixed-integer program: counts of replicas are integers, shares of the load are continuous.

It is a relaxation: what a replica gets done is a rate by bucket of requests, and what the fleet carries within the SLO
is the sum of what its replicas carry in the best case. A bound on its cost is a bound for that capacity model; the
replay of a plan has the last word. Formulation after Melange (arXiv 2404.14527) and Jiang et al. (arXiv 2502.00722),
with busy windows, and cuts from replays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import inf
from typing import Any

from ..milp import Outcome, Program, total
from .problem import Aim, Counts, Offer, Problem, Scenario, bandwidth, pairs_of, phases_of, zones_of
from .promise import add_promise
from .zones import add_zones

_GB = 1e9  # bytes: solvers dislike factors of many magnitudes


@dataclass(frozen=True)
class Fleet:
    """A solution. counts : offers in use. price : as the goal has it.

    promise : share of the load that it is thought to carry, served : that it serves in the model; 1 unless asked for.
    """

    outcome: Outcome
    counts: Counts
    usd_per_hour: float
    watts: float
    price: float
    promise: float
    served: float


def solve_fleet(
    problem: Problem, aim: Aim = "price", *, solver: str, time_limit: float = 20.0, most: float = inf,
    promised: float = 0.0, avoid: Sequence[Counts] = (), relaxed: bool = False,
) -> Fleet | Outcome:  # fmt: skip
    """The best fleet, or the outcome without one.

    aim : the least price; the largest promise at a price of `most`; the same of fleets that need not serve all of the
    load ("goodput"); or the largest share of the load that could be served at all.
    promised : load that it must be thought to carry, as a multiple of the trace's.
    avoid : fleets that shall not come again, neither bad nor good.
    """
    model = _Model(problem, aim, promised)
    if most < inf:
        model.program.require(model.price <= most, "most")
    for counts in problem.cuts:
        model.more_than(counts)
    for counts in avoid:
        model.other_than(counts)
    outcome = model.program.solve(solver, time_limit=time_limit, relaxed=relaxed)
    return outcome if outcome.value is None else model.fleet(outcome)


class _Model:
    def __init__(self, problem: Problem, aim: Aim, promised: float) -> None:
        self.problem = problem
        self.program = Program("fleet", maximize=aim != "price")
        self.counts = {o.name: self.program.count(f"n_{i}", 0, o.most) for i, o in enumerate(problem.offers)}
        self.number = {offer.name: i for i, offer in enumerate(problem.offers)}
        self.served = self.program.number("served", 0, 1) if aim == "served" else float(aim != "goodput")
        self._least: dict[tuple[int, ...], Any] = {}
        self.phases = phases_of(problem.offers)
        self.loads = [self._serve(w, scenario) for w, scenario in enumerate(problem.scenarios)]
        self._move_kv()
        self._stock()
        self._roles()
        if problem.zones:
            add_zones(self.program, problem, self.counts, self.loads)
        self._carry()
        usd, watts = total(o.usd_per_hour * self.counts[o.name] for o in problem.offers), self._power()
        if problem.budget < inf:
            self.program.require(usd <= problem.budget, "budget")
        self.price = watts if problem.goal == "energy" else usd + problem.electricity_per_kwh / 1e3 * watts
        self.load = 0.0
        if promised or aim in ("promise", "goodput"):
            self.load = add_promise(self.program, problem, self.counts)[0]
            self.program.require(self.load >= promised, "promised")
        if aim == "goodput":
            self.program.require(self.load <= 1, "all")
        aims = {"price": self.price, "promise": self.load, "goodput": self.load, "served": self.served}
        self.program.aim([aims[aim]])

    def _serve(self, w: int, scenario: Scenario) -> list[dict[int, Any]]:
        """Give a scenario's requests to replicas, in each phase; returns, by bucket, the amount of each offer."""
        offers, buckets = self.problem.offers, range(len(scenario.arrivals))
        phases = dict([next(iter(self.phases.items()))]) if scenario.prompts else self.phases
        rates = [o.prompt_rates if scenario.prompts else o.rates for o in offers]
        amounts = [{i: self.program.number(f"x_{w}_{b}_{i}") for i, r in enumerate(rates) if r[b] > 0} for b in buckets]
        shed = [self.program.number(f"shed_{w}_{b}", 0, scenario.arrivals[b]) for b in buckets]
        self.program.require(total(shed) <= scenario.allowed, f"allowed_{w}")
        for phase, mine in phases.items():
            able = {self.number[offer.name] for offer in mine}
            for b in buckets:
                done = total(x for i, x in amounts[b].items() if i in able)
                self.program.require(done + shed[b] >= scenario.arrivals[b] * self.served, f"load_{w}_{b}_{phase}")
        for i, offer in enumerate(offers):
            own = [(b, amounts[b][i]) for b in buckets if i in amounts[b]]
            busy = total(1 / rates[i][b] * x for b, x in own)
            if offer.kv_tokens < inf and any(offer.resident) and not scenario.prompts:
                room = scenario.seconds * offer.kv_tokens
                held = total(offer.resident[b] / room * x for b, x in own)  # Little's law
                between, again = self._hold(f"{w}_{i}", offer, own, room)
                self.program.require(held + between <= self.counts[offer.name], f"kv_{w}_{i}")
                busy += again
            self.program.require(busy <= scenario.seconds * self.counts[offer.name], f"busy_{w}_{i}")
        return amounts

    def _hold(self, tag: str, offer: Offer, own: Sequence[tuple[int, Any]], room: float) -> tuple[Any, Any]:
        """KV cache between requests that use it, in `room` token-seconds, and seconds to compute again what is let go.

        The replica chooses what it holds, class by class: better than any eviction does.
        """
        between, again = [], []
        for b, x in own if offer.held else ():
            for c, (share, waits) in enumerate(offer.held[b]):
                lost = self.program.number(f"lost_{tag}_{b}_{c}")
                self.program.require(lost <= share * x, f"lost_{tag}_{b}_{c}")
                between.append(waits / room * x - waits / share / room * lost)
                again.append(offer.spared[b] * lost)
        return total(between), total(again)

    def _stock(self) -> None:
        """GPUs that there are, and groups that fit into nodes."""
        for gpu, (count, node) in self.problem.stock.items():
            mine = [offer for offer in self.problem.offers if offer.gpu == gpu]
            self.program.require(total(o.gpus * self.counts[o.name] for o in mine) <= count, f"stock_{gpu}")
            sizes = sorted({offer.group for offer in mine})
            if all(node % size == 0 for size in sizes) and not count % node and _chain(sizes):
                continue  # any numbers that the stock allows can be packed
            groups = {s: total(o.gpus // s * self.counts[o.name] for o in mine if o.group == s) for s in sizes}
            whole, rest = divmod(count, node)
            room: dict[int, list[Any]] = {size: [] for size in sizes}
            for name, nodes, size in ((f"{gpu}_whole", whole, node), (f"{gpu}_rest", 1, rest)):
                patterns = _patterns(sizes, size)
                times = [self.program.count(f"nodes_{name}_{i}", 0, nodes) for i in range(len(patterns))]
                self.program.require(total(times) <= nodes, f"nodes_{name}")
                for s in sizes:
                    room[s] += [
                        pattern.count(s) * n for pattern, n in zip(patterns, times, strict=True) if s in pattern
                    ]
            for s in sizes:
                self.program.require(groups[s] <= total(room[s]), f"packing_{gpu}_{s}")

    def _roles(self) -> None:
        """Prefill and decode replicas come together, and with them all keep their KV cache in the same format."""
        offers = self.problem.offers
        if all(offer.role == "mixed" for offer in offers):
            return
        first, then = (total(self.counts[o.name] for o in offers if o.role == role) for role in ("prefill", "decode"))
        most = sum(offer.most for offer in offers)
        self.program.require(first <= most * then, "somebody_decodes")
        self.program.require(then <= most * first, "somebody_prefills")
        formats = sorted({offer.kv_format for offer in offers})
        chosen = {name: self.program.count(f"format_{f}", 0, 1) for f, name in enumerate(formats)}
        self.program.require(total(chosen.values()) <= 1, "one_format")
        for i, offer in enumerate(offers if len(formats) > 1 else ()):
            self.program.require(self.counts[offer.name] <= offer.most * chosen[offer.kv_format], f"format_{i}")

    def _carry(self) -> None:
        """What the replicas carry of the trace, prompts and decodes, with some of them lost or slower than thought."""
        needed = self.problem.needed * self.served
        for i, offer in enumerate(self.problem.offers if self.problem.spare else ()):
            used = self.program.count(f"used_{i}", 0, 1)
            self.program.require(self.counts[offer.name] <= offer.most * used, f"used_{i}")
        for phase, offers in self.phases.items():
            carried = total(o.share * self.counts[o.name] for o in offers) - self._shortfall(phase, offers)
            self.program.require(carried >= needed, f"carried_{phase}")
            for offer in offers if self.problem.spare else ():
                i = self.number[offer.name]
                lost = self.problem.spare * offer.share * self.program.variables[f"used_{i}"]
                self.program.require(carried - lost >= needed, f"spare_{phase}_{i}")

    def _shortfall(self, phase: str, offers: Sequence[Offer]) -> Any:
        """What so many offers at once may carry less than thought (the dual of the adversary's choice of them)."""
        off, at_once = self.problem.robust
        if not (off and at_once):
            return 0.0
        most = self.program.number(f"slow_{phase}")
        beyond = []
        for i, offer in enumerate(offers):
            over = self.program.number(f"slow_{phase}_{i}")
            self.program.require(most + over >= off * offer.share * self.counts[offer.name], f"robust_{phase}_{i}")
            beyond.append(over)
        return at_once * most + total(beyond)

    def _move_kv(self) -> None:
        """KV cache from prefill to decode replicas, through their networks and the links between zones."""
        problem, seconds = self.problem, self.problem.scenarios[0].seconds
        fastest: dict[int, float] = {}
        for p, d in pairs_of(problem):
            rate = bandwidth(problem, problem.offers[p], problem.offers[d])
            fastest |= {i: max(rate, fastest.get(i, 0.0)) for i in (p, d)}
        sent_by: dict[int, list[Any]] = {i: [] for i in fastest}
        for b, amounts in enumerate(self.loads[0]):
            for i in fastest.keys() & amounts.keys():
                sent_by[i].append(problem.offers[i].kv_bytes[b] / _GB * amounts[i])
        for i, sent in sent_by.items():
            if fastest[i] < inf:
                room = seconds * fastest[i] / _GB * self.counts[problem.offers[i].name]
                self.program.require(total(sent) <= room, f"network_{i}")
        if problem.closed or problem.links or problem.zones:
            self._move_between_pairs(seconds)

    def _move_between_pairs(self, seconds: float) -> None:
        """The same by pairs, where it matters which."""
        problem, pairs = self.problem, pairs_of(self.problem)
        through: dict[tuple[str, str], list[Any]] = {ends: [] for ends in problem.links}
        for b, amounts in enumerate(self.loads[0]):
            open_pairs = [(p, d) for p, d in pairs if p in amounts and d in amounts and self._open(p, d, b)]
            flows = {(p, d): self.program.number(f"kv_{b}_{p}_{d}") for p, d in open_pairs}
            for i, x in amounts.items():
                if problem.offers[i].role != "mixed":
                    mine = total(flow for pair, flow in flows.items() if i in pair)
                    self.program.require(mine == x, f"moved_{b}_{i}")
            for (p, d), flow in flows.items():
                ends = zones_of(problem, problem.offers[p], problem.offers[d])
                if ends in through:
                    through[ends].append(problem.offers[p].kv_bytes[b] / _GB * flow)
        for k, (ends, sent) in enumerate(through.items()):
            self.program.require(total(sent) <= seconds * problem.links[ends] / _GB, f"link_0_{k}")

    def _open(self, prefill: int, decode: int, bucket: int) -> bool:
        offers = self.problem.offers
        return (offers[prefill].name, offers[decode].name, bucket) not in self.problem.closed

    def _power(self) -> Any:
        """Watts on average: what idles, and what the work adds."""
        scenario = self.problem.scenarios[0]
        offers = self.problem.offers
        terms = [offer.idle_watts * self.counts[offer.name] for offer in offers]
        for b, amounts in enumerate(self.loads[0]):
            terms += [offers[i].joules(b) / scenario.seconds * x for i, x in amounts.items()]
        return total(terms)

    def more_than(self, counts: Counts) -> None:
        """A fleet that missed the SLO would miss it with less, or with lesser replicas, too.

        A fleet is no more than that where each replica has a partner of its own there that is at least as good. By
        Hall's theorem none can be left out if of some offers there are more than all of their partners together.
        """
        as_good = {offer.name: self.problem.as_good(offer.name) for offer in self.problem.offers}
        more = []
        for size in range(len(counts) + 1):
            for partners in map(frozenset, combinations(counts, size)):
                mine = [name for name, better in as_good.items() if better & counts.keys() <= partners]
                more += self._at_least(mine, sum(counts[name] for name in partners) + 1)
        self.program.require(total(more) >= 1, f"cut_{self._tag(counts)}")

    def other_than(self, counts: Counts) -> None:
        """Not this fleet again: some offer has more replicas, or fewer."""
        most = {offer.name: offer.most for offer in self.problem.offers}
        if any(n > most.get(name, 0) for name, n in counts.items()):
            return  # there is no such fleet
        tag = self._tag(counts)
        changed = []
        for i, offer in enumerate(self.problem.offers):
            now = counts.get(offer.name, 0)
            changed += self._at_least([offer.name], now + 1)
            if now:
                fewer = self.program.count(f"fewer_{tag}_{i}", 0, 1)
                n = self.counts[offer.name]
                self.program.require(n <= offer.most - (offer.most - now + 1) * fewer, f"fewer_{tag}_{i}")
                changed.append(fewer)
        self.program.require(total(changed) >= 1, f"other_{tag}")

    def _at_least(self, names: Sequence[str], least: int) -> list[Any]:
        """A binary that may be 1 only where there are `least` replicas of these offers; none where that cannot be."""
        numbers = [self.number[name] for name in names]
        if sum(self.problem.offers[i].most for i in numbers) < least:
            return []
        key = (*numbers, least)
        if key not in self._least:
            tag = f"least_{len(self._least)}"
            self._least[key] = self.program.count(tag, 0, 1)
            n = total(self.counts[name] for name in names)
            self.program.require(n >= least * self._least[key], tag)
        return [self._least[key]]

    def _tag(self, counts: Counts) -> str:
        return "_".join(str(counts.get(offer.name, 0)) for offer in self.problem.offers)

    def fleet(self, outcome: Outcome) -> Fleet:
        """The solution, read back."""
        problem, offers = self.problem, self.problem.offers
        value = [round(outcome.values[f"n_{i}"]) for i in range(len(offers))]
        usd = sum(offer.usd_per_hour * n for offer, n in zip(offers, value, strict=True))
        watts = sum(offer.idle_watts * n for offer, n in zip(offers, value, strict=True)) + sum(
            offers[i].joules(b) / problem.scenarios[0].seconds * outcome.values[x.name]
            for b, amounts in enumerate(self.loads[0]) for i, x in amounts.items()
        )  # fmt: skip
        price = watts if problem.goal == "energy" else usd + problem.electricity_per_kwh / 1e3 * watts
        counts = {offer.name: n for offer, n in zip(offers, value, strict=True) if n}
        promise, served = (outcome.values.get(name, 1.0) for name in ("load", "served"))
        return Fleet(outcome, counts, usd, watts, price, promise, served)


def _chain(sizes: Sequence[int]) -> bool:
    return all(large % small == 0 for small, large in pairwise(sizes))


def _patterns(sizes: Sequence[int], node: int) -> list[list[int]]:
    """Every way to fill a node with groups so that no further one fits."""
    found: list[list[int]] = []

    def fill(at: int, left: int, groups: list[int]) -> None:
        if all(size > left for size in sizes):
            found.append(groups)
        for i in range(at, len(sizes)):
            if sizes[i] <= left:
                fill(i, left - sizes[i], [*groups, sizes[i]])

    fill(0, node, [])
    return found
