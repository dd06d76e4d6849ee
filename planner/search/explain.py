"""Why this plan: what binds, what one more would be worth, what the next cheaper fleet misses; or why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

from ..candidates import Rejected
from ..program.fleet import Fleet, solve_fleet
from ..program.problem import Problem
from ..program.zones import too_slow, what_links_are_worth, with_ample_links
from .market import Market
from .search import Found, Search, Tried

_NAMED = 3  # kinds of replicas with the same reason


def explain(found: Found, search: Search, rejected: Sequence[Rejected]) -> list[str]:
    """Sentences, most important first. rejected : kinds of replicas that are out, of which a failure tells."""
    if found.best is None:
        return [*_infeasible(found, search), *_ruled_out(rejected)]
    problem = found.problem
    return [
        *_best(found), *_next_cheaper(found), *_fewer(found.best, search), *_links(problem), *_binding(problem, search)
    ]  # fmt: skip


def _best(found: Found) -> list[str]:
    best = found.best
    assert best is not None
    margins = [f"{o['objective']} ({o['value']:.4g})" for o in best.verdict.objectives if o["value"] is not None]
    most, more = ("most frugal", "more frugal") if found.problem.goal == "energy" else ("cheapest", "cheaper")
    lines = [f"{best.name} is the {most} fleet that met the SLO in the replay: {', '.join(margins)}"]
    certain = "in the relaxed capacity model, which the bound certifies, not the cluster itself"
    if found.gap:
        lines.append(f"no fleet is {more} by more than {found.gap:.1%} {certain}; {found.stopped}")
    else:
        lines.append(f"no {more} fleet is left {certain}")
    return lines


def _next_cheaper(found: Found) -> list[str]:
    assert found.best is not None
    cheaper = [tried for tried in found.tried if tried.price < found.best.price and not tried.verdict.met]
    if not cheaper:
        return []
    nearest = max(cheaper, key=lambda tried: tried.price)
    return [
        f"the next cheaper fleet tried, {nearest.name} at ${nearest.usd_per_hour:.2f}/h, misses "
        + nearest.verdict.missed
    ]


def _fewer(best: Tried, search: Search) -> list[str]:
    """What happens without one replica of each kind; the search has tried these fleets."""
    lines = []
    for name, n in best.counts.items():
        fewer = {key: value for key, value in {**best.counts, name: n - 1}.items() if value}
        if search.complete(fewer):
            lines.append(f"without one {name} it misses {search.attempt(fewer).verdict.missed}")
    return lines


def _links(problem: Problem) -> list[str]:
    """Links that rule pairs of replicas out, however little they have to carry."""
    return [
        f"the link from {way} is too slow for TPOT: {closed} of {pairs} pairs of replicas by prompt length are out"
        for way, closed, pairs in too_slow(problem)
    ]


def _binding(problem: Problem, search: Search) -> list[str]:
    """Shadow prices of the linear relaxation: what one more unit of what binds would save."""
    relaxed = solve_fleet(replace(problem, cuts=()), solver=search.solver, relaxed=True)
    if not isinstance(relaxed, Fleet):
        return []
    unit = "W" if problem.goal == "energy" else "$/h"
    lines = []
    for name, dual in sorted(relaxed.outcome.duals.items()):
        if abs(dual) < 1e-9:
            continue
        kind, _, rest = name.partition("_")
        if kind == "stock":
            lines.append(f"one more {rest} would save {-dual:.4g} {unit}")
        elif name == "budget":
            lines.append(f"one more $/h of budget would save {-dual:.4g} {unit}")
        elif kind == "carried":
            what = {"mixed": "load", "prefill": "prompts", "decode": "answers"}[rest]
            lines.append(f"1 % more {what} would cost {dual / 100:.4g} {unit}")
        elif kind == "load":
            w, _, phase = rest.split("_")
            what = {"mixed": "requests", "prefill": "prompts", "decode": "answers"}[phase]
            window = problem.scenarios[int(w)].name
            lines.append(f"the {window} bind: 1,000 more {what} there would cost {dual * 1000:.4g} {unit}")
    for way, saved in what_links_are_worth(problem, relaxed.outcome.duals):
        if saved > 1e-9:
            lines.append(f"the link from {way} binds: 1 GB/s more would save {saved:.4g} {unit}")
    return [f"in the relaxation, {line}" for line in lines]


def _infeasible(found: Found, search: Search) -> list[str]:
    """The binding reason in words and numbers."""
    market = search.market
    if not market.known:
        return ["no kind of replica is left"]
    problem = replace(found.problem, cuts=())
    lines = [_room(replace(problem, budget=inf, spare=0), market, search), *_links(problem)]
    binding = {
        f"the budget of ${problem.budget:.2f}/h binds": replace(problem, budget=inf),
        f"{problem.spare} to spare of each kind bind": replace(problem, spare=0),
        **dict(with_ample_links(problem)),
    }
    for what, free in binding.items():
        cheapest = solve_fleet(free, solver=search.solver) if free != problem else None
        if isinstance(cheapest, Fleet):
            lines.append(f"{what}: ${cheapest.usd_per_hour:.2f}/h at least would be needed without")
    if found.tried:
        most = max(found.tried, key=lambda tried: -tried.verdict.beyond)
        lines.append(
            f"no fleet that was replayed met the SLO; {most.name} came closest and misses {most.verdict.missed}"
        )
    return lines


def _ruled_out(rejected: Sequence[Rejected]) -> list[str]:
    """Kinds of replicas by the reason why they are out."""
    names: dict[str, list[str]] = {}
    for kind in rejected:
        names.setdefault(kind.reason, []).append(kind.name)
    shown = {reason: ", ".join(these[:_NAMED]) for reason, these in names.items()}
    more = {
        reason: f" and {len(these) - _NAMED} more" if len(these) > _NAMED else "" for reason, these in names.items()
    }
    return [f"{shown[reason]}{more[reason]}: {reason}" for reason in names]


def _room(problem: Problem, market: Market, search: Search) -> str:
    best = solve_fleet(problem, "served", solver=search.solver)
    if not isinstance(best, Fleet):
        return "the program has no solution even for none of the load"
    names = ", ".join(f"{n} x {name} ({n * market.known[name].share:.0%})" for name, n in best.counts.items())
    if not best.counts:
        return "no replica that can be rented serves any of the load"
    if best.served < 1:
        return f"all of the inventory carries {best.served:.0%} of the load at best: {names}"
    return f"the inventory might carry the load: {names}"
