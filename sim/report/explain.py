"""Why an SLO was missed: which component of time weighs most in the requests that missed it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...costmodels.base import TICKS_PER_SECOND
from .metrics import Finished, Floats


def components_of(metric: str, requests: Finished) -> dict[str, Floats]:
    """Seconds of `ttft`, `e2el`, or the time after the first token (`tpot`, `itl`), by component; they sum to it."""
    whole = {
        name: requests.component(name)
        for name in ("queueing", "prefill", "decode", "interference", "preemption", "transfer", "host")
    }
    if metric == "e2el":
        return whole
    first_interference = requests.column("first_interference") / TICKS_PER_SECOND
    first_host = requests.column("first_host") / TICKS_PER_SECOND
    before = {
        "queueing": whole["queueing"],
        "prefill": whole["prefill"],
        "interference": first_interference,
        "transfer": 0 * whole["transfer"],  # requests move when they have had their first token
        "host": first_host,
    }
    lost = requests.ttft - sum(before.values())  # preempted before the first token
    if metric == "ttft":
        return {**before, "preemption": lost}
    moved = {"transfer": whole["transfer"]} if whole["transfer"].any() else {}
    return {
        **moved,
        "decode": whole["decode"],
        "interference": whole["interference"] - first_interference,
        "preemption": whole["preemption"] - lost,
        "host": whole["host"] - first_host,
    }


def dominating(metric: str, requests: Finished, missed: NDArray[np.bool_]) -> dict[str, Any]:
    """The component with the largest share of `metric` in the `missed` requests, and all shares."""
    sums = {name: float(values[missed].sum()) for name, values in components_of(metric, requests).items()}
    total = sum(sums.values())
    shares = {name: value / total for name, value in sums.items()} if total else {}
    return {
        "requests": int(missed.sum()),
        "dominating": max(shares, key=lambda name: shares[name]) if shares else None,
        "shares": shares,
    }
