"""Goodput and objectives of a run against an SLO: overall and by class, tenant and model."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...configs.slo import SLO, TOTALS
from ..run import Run
from .explain import dominating
from .metrics import Finished, latency_statistics

GROUPS = ("request_class", "tenant", "model")


def attainment(run: Run, requests: Finished, slo: SLO, figures: dict[str, Any]) -> dict[str, Any]:
    """What `slo` makes of a run whose headline figures are `figures`.

    request_goodput : good requests a second. goodput_of_offered, goodput_of_completed : shares. limits : for each
    limit of a request how many finished requests missed it and why; objectives : each with its value and verdict.
    """
    good = good_requests(run, requests, slo)
    offered, completed = len(requests.all_ends), len(requests)
    result: dict[str, Any] = {
        "request_goodput": float(good.sum()) / figures["duration"] if figures["duration"] else None,
        "goodput_of_offered": float(good.sum()) / offered if offered else None,
        "goodput_of_completed": float(good.sum()) / completed if completed else None,
    }
    result["limits"] = {
        metric: {"limit_s": limit, **dominating(metric, requests, getattr(requests, metric) > limit)}
        for metric, limit in slo.limits.items()
    }
    result["objectives"] = [_objective(o, requests, figures, result) for o in slo.objectives]
    return result


def good_requests(run: Run, requests: Finished, slo: SLO) -> Any:
    """Which of `requests` keep the limits of their class."""
    labels = run.table.request_class
    codes = labels.codes[requests.rows] if labels else np.full(len(requests.rows), -1)
    names = labels.names if labels else ()
    classes = {names.index(name): limits for name, limits in slo.classes.items() if name in names}
    return requests.good(slo.limits, classes, codes)


def _objective(objective: Any, requests: Finished, figures: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    if objective.metric in TOTALS:
        value = result["goodput_of_offered"] if objective.metric == "goodput" else figures.get(objective.metric)
    else:
        value = figures[f"{objective.statistic}_{objective.metric}_ms"]
        value = None if value is None else value / 1e3
    met = value is not None and objective.met(value)
    verdict: dict[str, Any] = {"objective": objective.text, "value": value, "met": met}
    if not met and value is not None and objective.metric in ("ttft", "tpot", "e2el"):
        verdict.update(dominating(objective.metric, requests, getattr(requests, objective.metric) > objective.limit))
    elif not met and objective.metric == "itl":
        verdict.update(dominating("itl", requests, requests.has_tpot))
    return verdict


def groups(run: Run, requests: Finished, slo: SLO | None) -> dict[str, dict[str, Any]]:
    """By request class, tenant and model of the trace: counts, latencies and goodput of each."""
    good = good_requests(run, requests, slo) if slo else None
    result: dict[str, dict[str, Any]] = {}
    for column in GROUPS:
        labels = getattr(run.table, column)
        if labels is None or len(labels.names) < 2:
            continue
        of_all, of_finished = labels.codes[requests.all_rows], labels.codes[requests.rows]
        result[column] = {}
        for code, name in enumerate(labels.names):
            mine, offered = of_finished == code, int((of_all == code).sum())
            if not offered:
                continue
            result[column][name] = {
                "offered": offered,
                "completed": int(mine.sum()),
                "total_input_tokens": int(requests.column("prompt_tokens")[mine].sum(dtype=np.int64)),
                "total_output_tokens": int(requests.column("generated")[mine].sum(dtype=np.int64)),
                **latency_statistics("ttft", requests.ttft[mine]),
                **latency_statistics("tpot", requests.tpot[mine & requests.has_tpot]),
                **latency_statistics("e2el", requests.e2el[mine]),
                **({"goodput_of_offered": float(good[mine].sum()) / offered} if good is not None else {}),
            }
    return result
