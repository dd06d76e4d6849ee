"""How much load a fleet is thought to carry within the SLO, and how to route it: an estimate, not a bound.

A replica that gets y requests/s lets some of them miss a limit; measured at several rates, those misses are a convex
curve, kept as lines. Replicas make up for each other: only the sum of all misses is limited. So a slow replica carries
more in a fleet than alone, and the program finds how much each should get.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from ..milp import Program, total
from .problem import Counts, Offer, Problem, phases_of
from .zones import add_ways

_GB = 1e9
Line = tuple[float, float]
Routing = Sequence[Mapping[tuple[str, str], float]]  # by bucket: share by (phase, offer)


def lower_hull(points: Sequence[tuple[float, float]]) -> tuple[Line, ...]:
    """Lines whose maximum is the largest convex curve below `points`, (0, 0) added to them."""
    hull: list[tuple[float, float]] = []
    for x, y in sorted({(0.0, 0.0), *points}):
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], (x, y)):
            hull.pop()
        hull.append((x, y))
    slopes = [_slope(a, b) for a, b in pairwise(hull)]
    return tuple((slope, y - slope * x) for slope, (x, y) in zip(slopes, hull, strict=False))


def _slope(a: tuple[float, float], b: tuple[float, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])


def add_promise(program: Program, problem: Problem, counts: Mapping[str, Any]) -> tuple[Any, list[dict[Any, Any]]]:
    """The load, as a multiple of the trace's, that `counts` replicas carry; and by bucket, the requests/s of each offer
    in each phase, by (phase, offer).

    counts : by offer, numbers or variables of `program`.
    """
    load = program.number("load")
    offers = [(i, offer) for i, offer in enumerate(problem.offers) if offer.name in counts]
    own = {
        offer.name: {b: program.number(f"y_{b}_{i}") for b in range(len(problem.rates)) if offer.rates[b] > 0}
        for i, offer in offers
    }
    amounts: list[dict[Any, Any]] = [{} for _ in problem.rates]
    for phase, mine in phases_of([offer for _, offer in offers]).items():
        for b, rate in enumerate(problem.rates):
            amounts[b] |= {(phase, o.name): own[o.name][b] for o in mine if b in own[o.name]}
            served = total(x for (p, _), x in amounts[b].items() if p == phase)
            program.require(served == rate * load, f"promised_{phase}_{b}")
    if problem.zones:
        by_offer = [{i: own[o.name][b] for i, o in offers if b in own[o.name]} for b in range(len(problem.rates))]
        sent = add_ways(program, problem, by_offer, "promised_way")
        for k, (way, bandwidth) in enumerate(problem.links.items()):
            program.require(sent[way] <= bandwidth / _GB, f"promised_link_{k}")
    for i, offer in offers:
        through = total(own[offer.name].values())
        busy = total(1 / offer.rates[b] * x for b, x in own[offer.name].items())
        program.require(busy <= counts[offer.name], f"promised_busy_{i}")
        program.require(through <= offer.share * sum(problem.rates) * counts[offer.name], f"promised_share_{i}")
    _limit_misses(program, problem, offers, counts, {name: total(mine.values()) for name, mine in own.items()}, load)
    return load, amounts


def _limit_misses(
    program: Program, problem: Problem, offers: Sequence[tuple[int, Offer]], counts: Mapping[str, Any],
    through: Mapping[str, Any], load: Any,
) -> None:  # fmt: skip
    """All misses together stay within what an objective allows."""
    misses: dict[str, list[Any]] = {objective: [] for objective in problem.rare}
    for i, offer in offers:
        for o, (objective, lines) in enumerate(offer.late):
            late = program.number(f"late_{o}_{i}")
            for k, (slope, intercept) in enumerate(lines):
                most = slope * through[offer.name] + intercept * counts[offer.name]
                program.require(late >= most, f"late_{o}_{i}_{k}")
            misses[objective].append(late)
    for o, (objective, share) in enumerate(problem.rare.items()):
        if misses[objective]:
            program.require(total(misses[objective]) <= share * sum(problem.rates) * load, f"rare_{o}")


def balance(problem: Problem, counts: Counts, solver: str) -> tuple[float, Routing]:
    """What a given fleet is thought to carry, and the shares of each bucket at which it carries most.

    Where it makes no difference, every offer gets its share of every bucket.
    """
    program = Program("balance", maximize=True)
    load, amounts = add_promise(program, problem, counts)
    uneven: list[Any] = []
    for way in sorted({way for mine in amounts for way in mine}):
        usual = program.number("usual_{}_{}".format(*way))
        for b, mine in enumerate(amounts):
            if way in mine:
                off, tag = program.number(f"off_{len(uneven)}"), len(uneven)
                program.require(off >= 1 / problem.rates[b] * mine[way] - usual, f"more_{tag}")
                program.require(off >= usual - 1 / problem.rates[b] * mine[way], f"less_{tag}")
                uneven.append(off)
    program.aim([load, -1e-3 * total(uneven)])
    values = program.solve(solver).values
    carried = values[load.name]
    shares = [
        {way: values[x.name] / (rate * carried) if carried else 1.0 for way, x in mine.items()}
        for mine, rate in zip(amounts, problem.rates, strict=True)
    ]
    return carried, shares
