"""How sure the figures of a replay are: confidence intervals of its objectives by block bootstrap over the trace."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...configs.slo import SLO
from ...sim.report.attainment import good_requests
from ...sim.report.metrics import Finished
from ...sim.run import Run
from ...traces.streams import Stream

_BLOCKS = 40  # of consecutive requests: neighbours share bursts, so they are drawn together
_DRAWS = 300


def intervals(run: Run, slo: SLO, seed: int) -> dict[str, tuple[float, float]]:
    """By objective (its text): the 95 % interval of its value, in seconds, over resampled stretches of the trace.

    It says how much the figure would vary over traces like this one; a recorded trace on a deterministic plan itself
    repeats exactly. Objectives on means, percentiles and goodput of requests have one; ITL and totals have none.
    """
    requests = Finished(run)
    blocks = np.array_split(np.arange(len(requests)), min(_BLOCKS, len(requests)))
    stream = Stream(seed, "bootstrap")
    draws = [stream.integers(len(blocks), len(blocks)) for _ in range(_DRAWS)]
    found = {}
    for objective in slo.objectives:
        if objective.metric == "goodput":
            values = good_requests(run, requests, slo).astype(float)
        elif objective.metric in ("ttft", "tpot", "e2el"):
            values = getattr(requests, objective.metric)
            if objective.metric == "tpot":
                values = np.where(requests.has_tpot, values, np.nan)
        else:
            continue
        figures = [_statistic(objective, values[np.concatenate([blocks[b] for b in draw])]) for draw in draws]
        low, high = np.percentile(figures, [2.5, 97.5]).tolist()
        found[objective.text] = (low, high)
    return found


def _statistic(objective: Any, values: Any) -> float:
    name = objective.statistic
    if name in ("mean", "", "std"):
        return float(np.nanstd(values) if name == "std" else np.nanmean(values))
    return float(np.nanpercentile(values, 50 if name == "median" else int(name[1:])))
