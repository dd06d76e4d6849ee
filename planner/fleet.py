"""The fleet as a mixed-integer program: counts of replicas are integers, shares of the load are continuous.

It is a relaxation: what a replica gets done is a rate by bucket of requests, and what the fleet carries within the SLO
is the sum of what its replicas carry in the best case. A bound on its cost is a bound for that capacity model; the
replay of a plan has the last word. Formulation after Melange (arXiv 2404.14527) and Jiang et al. (arXiv 2502.00722),
with busy windows, and cuts from replays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import Any

from .milp import Outcome, Program, total
from .problem import Aim, Counts, Offer, Problem, Scenario, bandwidth, routes_of, serves


@dataclass(frozen=True)
class Fleet:
    """A solution. counts, routes : offers in use, and ways through them. price : as the goal has it.

    promise : share of the load that it is thought to carry. served : that it serves in the model, 1 unless that was
    the aim.
    """

    outcome: Outcome
    counts: Counts
    routes: tuple[tuple[str, ...], ...]
    usd_per_hour: float
    watts: float
    price: float
    promise: float
    served: float


def solve_fleet(
    problem: Problem, aim: Aim = "price", *, solver: str, time_limit: float = 20.0, most: float = inf,
    avoid: Sequence[Counts] = (), relaxed: bool = False,
) -> Fleet | Outcome:  # fmt: skip
    """The best fleet, or the outcome without one.

    aim : the least price; or the largest promise at a price of `most`; or the largest share of the load served.
    avoid : fleets that shall not come again, neither bad nor good.
    """
    model = _Model(problem, aim)
    if most < inf:
        model.program.require(model.price <= most, "most")
    for counts in problem.cuts:
        model.more_than(counts)
    for counts in avoid:
        model.other_than(counts)
    outcome = model.program.solve(solver, time_limit=time_limit, relaxed=relaxed)
    return outcome if outcome.value is None else model.fleet(outcome)


def balance(problem: Problem, counts: Counts, solver: str) -> tuple[dict[tuple[str, ...], float], ...]:
    """How to route the whole trace over a given fleet so that the busiest offer is as little busy as can be.

    By bucket, the share of each offer or (prefill, decode) pair. Where it makes no difference, every offer gets its
    share of every bucket.
    """
    offers = [offer for offer in problem.offers if counts.get(offer.name)]
    routes, scenario = routes_of(offers, problem), problem.scenarios[0]
    program = Program("balance")
    peak, busy = program.number("peak"), [[] for _ in offers]  # type: tuple[Any, list[list[Any]]]
    usual = {r: program.number(f"usual_{r}", 0, 1) for r in range(len(routes))}
    shares: list[dict[int, Any]] = []
    uneven = []
    for b, arrivals in enumerate(scenario.arrivals):
        able = [r for r, route in enumerate(routes) if serves(problem, [offers[i] for i in route], b)]
        shares.append({r: program.number(f"x_{b}_{r}", 0, 1) for r in able})
        program.require(total(shares[b].values()) == bool(able), f"served_{b}")
        for r, x in shares[b].items():
            off = program.number(f"off_{b}_{r}")
            program.require(off >= x - usual[r], f"more_{b}_{r}")
            program.require(off >= usual[r] - x, f"less_{b}_{r}")
            uneven.append(off)
            for i in routes[r]:
                busy[i].append(arrivals / (offers[i].within or offers[i].rates)[b] * x)
    for i, offer in enumerate(offers):
        program.require(total(busy[i]) <= scenario.seconds * counts[offer.name] * peak, f"busy_{i}")
    program.aim([peak, 1e-3 * total(uneven)])
    values = program.solve(solver).values
    return tuple(
        {tuple(offers[i].name for i in routes[r]): values[x.name] for r, x in mine.items() if values[x.name] > 1e-9}
        for mine in shares
    )


class _Model:
    def __init__(self, problem: Problem, aim: Aim) -> None:
        self.problem = problem
        self.program = Program("fleet", maximize=aim != "price")
        self.counts = {o.name: self.program.count(f"n_{i}", 0, o.most) for i, o in enumerate(problem.offers)}
        self.served = self.program.number("served", 0, 1) if aim == "served" else 1.0
        self.routes = routes_of(problem.offers, problem)
        self.loads = [self._serve(w, scenario) for w, scenario in enumerate(problem.scenarios)]
        self._stock()
        self._one_kv_format()
        self._carry()
        self._move_kv()
        usd, watts = total(o.usd_per_hour * self.counts[o.name] for o in problem.offers), self._power()
        if problem.budget < inf:
            self.program.require(usd <= problem.budget, "budget")
        self.price = watts if problem.goal == "energy" else usd + problem.electricity_per_kwh / 1e3 * watts
        aims = {"price": lambda: self.price, "promise": self._promise, "served": lambda: self.served}
        self.program.aim([aims[aim]()])

    def _serve(self, w: int, scenario: Scenario) -> list[dict[int, Any]]:
        """Route a scenario's requests; returns, by bucket, the amount on each route."""
        problem, buckets = self.problem, range(len(scenario.arrivals))
        amounts: list[dict[int, Any]] = []
        shed = [self.program.number(f"shed_{w}_{b}", 0, scenario.arrivals[b]) for b in buckets]
        for b in buckets:
            able = [r for r, way in enumerate(self.routes) if serves(problem, [problem.offers[i] for i in way], b)]
            amounts.append({r: self.program.number(f"x_{w}_{b}_{r}") for r in able})
            self.program.require(
                total(amounts[b].values()) + shed[b] >= scenario.arrivals[b] * self.served, f"load_{w}_{b}"
            )
        self.program.require(total(shed) <= scenario.allowed, f"allowed_{w}")
        for i, offer in enumerate(problem.offers):
            mine = [(b, x) for b in buckets for r, x in amounts[b].items() if i in self.routes[r]]
            busy = total(1 / offer.rates[b] * x for b, x in mine)
            self.program.require(busy <= scenario.seconds * self.counts[offer.name], f"busy_{w}_{i}")
            if offer.resident and offer.kv_tokens < inf:
                held = total(offer.resident[b] * x for b, x in mine)  # Little's law
                self.program.require(
                    held <= scenario.seconds * offer.kv_tokens * self.counts[offer.name], f"kv_{w}_{i}"
                )
        return amounts

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

    def _one_kv_format(self) -> None:
        """Where requests are handed over, all replicas keep their KV cache in the same format."""
        offers = self.problem.offers
        formats = sorted({offer.kv_format for offer in offers})
        if len(formats) < 2 or all(offer.role == "mixed" for offer in offers):
            return
        chosen = {name: self.program.count(f"format_{f}", 0, 1) for f, name in enumerate(formats)}
        self.program.require(total(chosen.values()) <= 1, "one_format")
        for i, offer in enumerate(offers):
            self.program.require(self.counts[offer.name] <= offer.most * chosen[offer.kv_format], f"format_{i}")

    def _carry(self) -> None:
        """What the replicas carry of the trace, prompts and decodes, with some of them lost or slower than thought."""
        needed = (1 - self.problem.allowed) * self.served
        for i, offer in enumerate(self.problem.offers if self.problem.spare else ()):
            used = self.program.count(f"used_{i}", 0, 1)
            self.program.require(self.counts[offer.name] <= offer.most * used, f"used_{i}")
        for phase, offers in self._phases().items():
            carried = total(o.share * self.counts[o.name] for o in offers) - self._shortfall(phase, offers)
            self.program.require(carried >= needed, f"carried_{phase}")
            for offer in offers if self.problem.spare else ():
                used = self.program.variables[f"used_{self.problem.offers.index(offer)}"]
                self.program.require(
                    carried - self.problem.spare * offer.share * used >= needed, f"spare_{phase}_{used.name}"
                )

    def _phases(self) -> dict[str, list[Offer]]:
        """The replicas that compute prompts, and those that decode; one and the same where there are no roles."""
        offers = self.problem.offers
        if all(offer.role == "mixed" for offer in offers):
            return {"all": list(offers)}
        return {
            "prefill": [o for o in offers if o.role != "decode"], "decode": [o for o in offers if o.role != "prefill"]
        }  # fmt: skip

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

    def _promise(self) -> Any:
        """The share of the load that the fleet is thought to carry: in the phase where that is less."""
        phases = [total(o.estimate * self.counts[o.name] for o in offers) for offers in self._phases().values()]
        if len(phases) == 1:
            return phases[0]
        promise = self.program.number("promise")
        for i, carried in enumerate(phases):
            self.program.require(promise <= carried, f"promise_{i}")
        return promise

    def _move_kv(self) -> None:
        """KV cache from prefill to decode replicas, through their networks and the links between zones."""
        problem, scenario = self.problem, self.problem.scenarios[0]
        busy: dict[int, list[Any]] = {}  # seconds of sending and receiving, by offer
        through: dict[tuple[str, str], list[Any]] = {}
        for b, amounts in enumerate(self.loads[0]):
            for r, x in amounts.items():
                if len(self.routes[r]) == 2:
                    source, target = (problem.offers[i] for i in self.routes[r])
                    sent = source.kv_bytes[b] * x
                    for i in self.routes[r]:
                        busy.setdefault(i, []).append(1 / bandwidth(problem, source, target) * sent)
                    zones = problem.zones.get(source.gpu, ""), problem.zones.get(target.gpu, "")
                    if zones in problem.links:
                        through.setdefault(zones, []).append(sent)
        for i, seconds in busy.items():
            room = scenario.seconds * self.counts[problem.offers[i].name]
            self.program.require(total(seconds) <= room, f"network_{i}")
        for pair, moved in through.items():
            self.program.require(total(moved) <= scenario.seconds * problem.links[pair], f"link_{pair[0]}_{pair[1]}")

    def _power(self) -> Any:
        """Watts on average: what idles, and what the work adds."""
        scenario = self.problem.scenarios[0]
        offers = self.problem.offers
        terms = [offer.idle_watts * self.counts[offer.name] for offer in offers]
        for b, amounts in enumerate(self.loads[0]):
            terms += [offers[i].joules(b) / scenario.seconds * x for r, x in amounts.items() for i in self.routes[r]]
        return total(terms)

    def more_than(self, counts: Counts) -> None:
        """A fleet that missed the SLO would miss it with less, too: some offer must have more replicas."""
        tag = "_".join(str(counts.get(offer.name, 0)) for offer in self.problem.offers)
        more = []
        for i, offer in enumerate(self.problem.offers):
            least = counts.get(offer.name, 0) + 1
            if least <= offer.most:
                more.append(self._at_least(i, offer, least))
        self.program.require(total(more) >= 1, f"cut_{tag}")

    def other_than(self, counts: Counts) -> None:
        """Not this fleet again: some offer has more replicas, or fewer."""
        tag = "_".join(str(counts.get(offer.name, 0)) for offer in self.problem.offers)
        changed = []
        for i, offer in enumerate(self.problem.offers):
            now = counts.get(offer.name, 0)
            if now < offer.most:
                changed.append(self._at_least(i, offer, now + 1))
            if now:
                fewer = self.program.count(f"fewer_{tag}_{i}", 0, 1)
                n = self.counts[offer.name]
                self.program.require(n <= offer.most - (offer.most - now + 1) * fewer, f"fewer_{tag}_{i}")
                changed.append(fewer)
        self.program.require(total(changed) >= 1, f"other_{tag}")

    def _at_least(self, i: int, offer: Offer, least: int) -> Any:
        """A binary that may be 1 only where the offer has `least` replicas."""
        name = f"least_{i}_{least}"
        known = self.program.variables.get(name)
        if known is None:
            known = self.program.count(name, 0, 1)
            self.program.require(self.counts[offer.name] >= least * known, name)
        return known

    def fleet(self, outcome: Outcome) -> Fleet:
        """The solution, read back."""
        problem, offers = self.problem, self.problem.offers
        value = {offer: round(outcome.values[f"n_{i}"]) for i, offer in enumerate(offers)}
        usd = sum(offer.usd_per_hour * n for offer, n in value.items())
        watts = sum(offer.idle_watts * n for offer, n in value.items()) + sum(
            offers[i].joules(b) / problem.scenarios[0].seconds * outcome.values[x.name]
            for b, amounts in enumerate(self.loads[0]) for r, x in amounts.items() for i in self.routes[r]
        )  # fmt: skip
        price = watts if problem.goal == "energy" else usd + problem.electricity_per_kwh / 1e3 * watts
        promise = min(sum(o.estimate * value[o] for o in offers) for offers in self._phases().values())
        counts = {offer.name: n for offer, n in value.items() if n}
        used = {r for amounts in self.loads[0] for r, x in amounts.items() if outcome.values[x.name] > 1e-6}
        routes = tuple(tuple(offers[i].name for i in self.routes[r]) for r in sorted(used))
        return Fleet(outcome, counts, routes, usd, watts, price, promise, outcome.values.get("served", 1.0))


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
