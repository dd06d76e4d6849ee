"""One planning run from a trace, an SLO and an inventory to a report and a plan."""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from ...configs.slo import SLO
from ...traces.table import RequestTable
from ...traces.transform import scale_rate
from ..candidates import Candidate, Rejected, find_candidates
from ..inventory import Inventory
from ..measure.cache import Cache
from ..measure.judge import Judge
from ..measure.points import Capacity
from ..measure.targets import Targets
from ..measure.workload import Workload
from ..program.problem import Goal
from .baselines import simpler_rules
from .exhaustive import cheapest, fleets
from .explain import explain
from .goodput import goodput_fleets
from .market import Known, Market
from .pareto import pareto_front
from .planfile import plan_of
from .search import Found, Search, Tried
from .stress import curve


@dataclass(frozen=True)
class Options:
    """How to search. stress : factors on load and service time. replays, gap, diverse : see `Search`."""

    solver: str
    goal: Goal = "cost"
    goodput: bool = False
    seed: int = 0
    replays: int = 40
    gap: float = 0.0
    diverse: int = 3
    exhaustive: bool = False
    pareto: bool = False
    compare: bool = True
    stress: Sequence[float] = ()
    cache: Path | None = None


@dataclass
class Planned:
    """report : for JSON. values : the plan file's, None without a plan. tried, front : for the picture."""

    report: dict[str, Any]
    values: dict[str, Any] | None
    tried: list[Tried]
    front: list[Tried]


def plan_fleet(
    table: RequestTable,
    slo: SLO,
    inventory: Inventory,
    options: Options,
    log: Callable[[str], None] = lambda line: None,
) -> Planned:
    """The cheapest fleet of `inventory` that serves `table` within `slo`.

    Raises `InputError` for an SLO that a trace of this length cannot tell about, or that asks nothing of latency.
    """
    with _settled():
        return _plan_fleet(table, slo, inventory, options, log)


@contextmanager
def _settled() -> Iterator[None]:
    """What lives already is no garbage: hundreds of simulations need not each look through it first."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _plan_fleet(
    table: RequestTable, slo: SLO, inventory: Inventory, options: Options, log: Callable[[str], None]
) -> Planned:
    started = time.monotonic()
    targets = Targets.of(slo, len(table))
    targets.check_classes(table)
    candidates, rejected = find_candidates(inventory, table)
    judge = Judge(Cache(options.cache), options.seed, log)

    def market_for(load: RequestTable, goal: Goal) -> Market:
        return Market(Capacity(inventory, Workload.of(load), targets, judge), candidates, goal)

    search = Search(
        market_for(table, options.goal), solver=options.solver, replays=options.replays, gap=options.gap,
        diverse=options.diverse,
    )  # fmt: skip
    if options.exhaustive:
        fleets(search)  # too many are refused at once
    found = search.run()
    report = _report(found, search, rejected, options)
    front: list[Tried] = []
    if found.best:
        plan = plan_of(found.best.values)
        report["intervals"] = found.best.verdict.intervals
        if options.compare:
            report["baselines"] = _baselines(search)
        if options.pareto:
            front = pareto_front(search, found.best)
            report["pareto"] = [_fleet(tried) for tried in front]
        if options.stress:
            report["stress"] = _stress(plan, table, targets, judge, options, market_for)
    if options.goodput:
        budget = inventory.budget_per_hour or (found.best.usd_per_hour if found.best else sum(_all(candidates)))
        report["goodput"] = [
            dataclasses.asdict(s) | {"goodput_per_usd": s.goodput_per_usd} for s in goodput_fleets(search, budget)
        ]
    if options.exhaustive:
        best = cheapest(search)
        report["exhaustive"] = _fleet(best) if best else None
    report["effort"] = {
        "simulations": judge.simulations, "simulated_requests": judge.requests, "cached": judge.hits,
        "seconds": time.monotonic() - started,
    }  # fmt: skip
    return Planned(report, found.best.values if found.best else None, found.tried, front)


def _all(candidates: list[Candidate]) -> list[float]:
    return [c.usd_per_hour * c.most for c in candidates]


def _report(found: Found, search: Search, rejected: list[Rejected], options: Options) -> dict[str, Any]:
    best, ruled_out = found.best, [*rejected, *found.rejected]
    return {
        "goal": options.goal,
        "status": "planned" if best else "infeasible",
        "stopped": found.stopped,
        "value": best.price if best else None,
        "bound": found.bound if isfinite(found.bound) else None,
        "gap": found.gap,
        "bound_certifies": "the relaxed capacity model, with cuts from replays",
        "plan": _fleet(best) if best else None,
        "explanation": explain(found, search, ruled_out),
        "candidates": [_point(search.market, name) for name in search.market.known],
        "rejected": [dataclasses.asdict(r) for r in ruled_out],
        "tried": [_fleet(tried) for tried in found.tried],
    }


def _fleet(tried: Tried) -> dict[str, Any]:
    verdict = dataclasses.asdict(tried.verdict)
    figures = {"counts": tried.counts, "usd_per_hour": tried.usd_per_hour, "watts": tried.watts, "price": tried.price}
    return {**figures, "met": tried.verdict.met, "objectives": verdict["objectives"]}


def _point(market: Market, name: str) -> dict[str, Any]:
    """What was measured of an instance type."""
    known = market.known[name]
    return {
        "name": name,
        "usd_per_hour": known.candidate.usd_per_hour,
        "kv_tokens": known.candidate.kv_tokens,
        "most_replicas": known.candidate.most,
        "requests_per_s_at_best_by_bucket": known.rates,
        "smooth_requests_per_s": _smooth(known) if known.probes else None,
        "share_by_replicas_of_pool": {n: dataclasses.asdict(share) for n, share in known.pooled.items()},
        "replicas_alone": {n: verdict.met for n, verdict in sorted(known.alone.items())},
    }


def _smooth(known: Known) -> dict[str, float]:
    point = known.smooth
    return {"low": point.low, "high": point.high, "good": point.good}


def _baselines(search: Search) -> list[dict[str, Any]]:
    return [
        {
            "rule": b.rule, "counts": b.counts, "usd_per_hour": b.usd_per_hour, "met": b.verdict.met,
            "missed": b.verdict.missed, "counts_that_meet": b.corrected,
            "usd_per_hour_that_meets": b.corrected_usd_per_hour,
        }
        for b in simpler_rules(search)
    ]  # fmt: skip


def _stress(
    plan: Any, table: RequestTable, targets: Targets, judge: Judge, options: Options,
    market_for: Callable[[RequestTable, Goal], Market],
) -> dict[str, Any]:  # fmt: skip
    """The plan under stress, and one that was planned for the most of it."""
    result = {"nominal": [_strained(s) for s in curve(plan, table, targets, judge, options.stress)]}
    market = market_for(scale_rate(table, max(options.stress)), options.goal)
    robust = Search(
        market, solver=options.solver, replays=options.replays, gap=options.gap, diverse=options.diverse
    ).run()
    if robust.best:
        strained = curve(plan_of(robust.best.values), table, targets, judge, options.stress)
        return {**result, "robust_plan": _fleet(robust.best), "robust": [_strained(s) for s in strained]}
    return {**result, "robust_plan": None}


def _strained(strained: Any) -> dict[str, Any]:
    return {
        "factor": strained.factor,
        **{
            kind: {"met": verdict.met, "missed": verdict.missed, "beyond": verdict.beyond}
            for kind, verdict in (("load", strained.load), ("service_time", strained.service))
        },
    }
