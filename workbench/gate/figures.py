"""The figures of a case's runs: by name and seed, with what explains them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...configs.slo import METRICS, SLO, STATISTICS, TOTALS
from ...errors import InputError, unknown_name
from ...sim.report.explain import components_of, dominating
from ...sim.report.metrics import Finished
from ...sim.report.report import build_report
from ...sim.run import Run, run
from ...sim.workload import Workload
from ...traces.table import RequestTable
from ..api import fitted
from .cases import Case, Wanted


@dataclass
class Measured:
    """What the runs of a case say. values : by figure, one a seed. report, run : of the first seed."""

    values: dict[str, list[float | None]]
    report: dict[str, Any]
    run: Run
    rows: str  # digest of all rows of all runs


def measure(case: Case, trace: Callable[[int], Workload]) -> Measured:
    """Run every seed. trace : what a seed draws, or the recording that all share."""
    values: dict[str, list[float | None]] = {}
    rows = hashlib.sha256()
    first: tuple[dict[str, Any], Run] | None = None
    for seed in case.seeds:
        load = fitted(trace(seed), case.limit, case.rate_scale)
        result = run(load.requests, case.plan, seed=seed, users=load.users, think_time=load.think_time)
        if result.interrupted:
            raise KeyboardInterrupt
        report = build_report(result, case.slo, case.warmup)
        for name, value in {**figures(report, case.slo), **_components(Finished(result, case.warmup))}.items():
            values.setdefault(name, []).append(value)
        for wanted in case.wanted:
            if wanted.request_class and seed == case.seeds[0]:
                _check_class(wanted, result.table)
        for column in result.recorder.requests.columns().values():
            rows.update(column.tobytes())
        first = first or (report, result)
    assert first
    return Measured(values, *first, rows.hexdigest()[:16])


def _check_class(wanted: Wanted, table: RequestTable) -> None:
    names = table.request_class.names if table.request_class else ()
    if wanted.request_class not in names:
        raise unknown_name("class", "request class of this trace", wanted.request_class, names)
    if len(names) < 2:
        raise InputError("class", f"{wanted.request_class}, the only class of this trace", "an objective without class")


def figures(report: dict[str, Any], slo: SLO) -> dict[str, float | None]:
    """Every figure that an objective can be about, by the name that `Wanted.figure` gives: latencies in seconds."""
    found = _latencies(report, METRICS)
    found |= {name: report.get(name) for name in TOTALS if name != "goodput"}
    if slo.limits or slo.classes:
        found["goodput"] = report["slo"]["goodput_of_offered"]
    for request_class, group in report.get("groups", {}).get("request_class", {}).items():
        own = _latencies(group, ("ttft", "tpot", "e2el")) | {"goodput": group.get("goodput_of_offered")}
        found |= {f"{name} of {request_class}": value for name, value in own.items()}
    return found


def _components(requests: Finished) -> dict[str, float | None]:
    """Seconds that each component of time has in a latency on average, as `ttft by queueing`."""
    return {
        f"{metric} by {name}": float(seconds.mean()) if len(seconds) else None
        for metric in ("ttft", "tpot", "e2el")
        for name, seconds in components_of(metric, requests).items()
    }


def _latencies(report: dict[str, Any], metrics: tuple[str, ...]) -> dict[str, float | None]:
    return {f"{m} {stat}": _seconds(report.get(f"{stat}_{m}_ms")) for m in metrics for stat in STATISTICS}


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1e3


def why(measured: Measured, case: Case, wanted: Wanted) -> str:
    """The component of time that dominates where an objective is missed, in words."""
    objective, requests = wanted.objective, Finished(measured.run, case.warmup)
    mine = np.ones(len(requests), bool)
    labels = measured.run.table.request_class
    if wanted.request_class and labels:
        mine = labels.codes[requests.rows] == labels.names.index(wanted.request_class)
    if objective.metric == "goodput":
        limits = case.slo.classes.get(wanted.request_class) or case.slo.limits
        missing = {m: mine & (getattr(requests, m) > seconds) for m, seconds in limits.items()}
        metric = max(missing, key=lambda m: int(missing[m].sum()), default="")
        return _told(metric, dominating(metric, requests, missing[metric])) if metric and missing[metric].any() else ""
    if objective.metric not in METRICS:
        return str(measured.report["simulation"]["load"]["reason"])
    late = requests.has_tpot if objective.metric == "itl" else getattr(requests, objective.metric) > objective.limit
    late = late & mine
    return _told(objective.metric, dominating(objective.metric, requests, late)) if late.any() else ""


def _told(metric: str, found: dict[str, Any]) -> str:
    if not found["dominating"]:
        return ""
    share = found["shares"][found["dominating"]]
    return f"{metric} of {found['requests']:,} requests: mostly {found['dominating']} ({share:.0%})"


def grown(metric: str, now: dict[str, float], before: dict[str, float]) -> str:
    """The component of a latency (of E2E for other figures) that grew most against a baseline, in words."""
    part = {"ttft": "ttft", "tpot": "tpot", "itl": "tpot"}.get(metric, "e2el") + " by "
    growth = {name.removeprefix(part): now[name] - before[name] for name in now if name.startswith(part)}
    most = max(growth, key=lambda name: growth[name], default="")
    return f"mostly {most}: {growth[most] * 1e3:+.3g} ms a request" if most and growth[most] > 0 else ""
