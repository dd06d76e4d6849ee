"""The verdict on load: did the queue keep growing while requests arrived?"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...costmodels.base import TICKS_PER_SECOND
from ..records import End
from ..run import Run

_PARTS = 5  # of the arrivals, in order
_GROWTH = 0.01  # seconds of queueing that a second of arrivals adds; in overload it is (offered / served) - 1
_NOTICEABLE = 1.0  # seconds of queueing below which nobody speaks of overload
_GONE = 0.01  # share of requests whose clients left the queue: their patience hides how long it would have grown


def overload_verdict(run: Run) -> dict[str, Any]:
    """`verdict` ("ok", "overloaded", "bursts exceed capacity" or "closed loop") with the figures behind it.

    The arrivals are cut into five equal parts; the median queueing delay of each is what the verdict looks at. In
    steady overload it rises from part to part in proportion to time; after a burst it comes back.
    """
    if run.closed_loop:
        return {"verdict": "closed loop", "reason": "clients wait for their answers, so the load adapts itself"}
    c = run.recorder.requests.columns()
    gone = int(((c["end"] == End.CANCELLED) & (c["scheduled"] < 0)).sum())
    if gone > _GONE * len(c["end"]):
        return {
            "verdict": "overloaded",
            "reason": f"clients of {gone:,} requests hung up while these were still queued",
        }
    served = c["end"] != End.REJECTED
    order = np.argsort(c["arrival"][served], kind="stable")
    arrival = c["arrival"][served][order] / TICKS_PER_SECOND
    scheduled = np.where(c["scheduled"] >= 0, c["scheduled"], c["ended"])[served][order] / TICKS_PER_SECOND
    if len(arrival) < 10 * _PARTS or arrival[-1] == arrival[0]:
        return {"verdict": "ok", "reason": f"{len(arrival)} requests are too few to tell"}
    parts = [float(np.median(part)) for part in np.array_split(scheduled - arrival, _PARTS)]
    span = float(arrival[-1] - arrival[0])
    growth = (parts[-1] - parts[1]) / (span * (_PARTS - 2) / _PARTS)
    drain = run.duration / TICKS_PER_SECOND - float(arrival[-1])
    figures = {"median_queueing_by_fifth_s": parts, "queueing_growth": growth, "drain_s": drain}
    if growth > _GROWTH and parts[-1] > _NOTICEABLE and parts[-1] >= max(parts[:-1]):
        reason = f"queueing grows by {growth:.3g} s in every second of arrivals and ends at {parts[-1]:.3g} s"
        return {"verdict": "overloaded", "reason": reason, **figures}
    if max(parts) > _NOTICEABLE and max(parts) > 10 * min(parts):
        reason = f"queueing reaches a median of {max(parts):.3g} s in a fifth of the run and recovers"
        return {"verdict": "bursts exceed capacity", "reason": reason, **figures}
    return {"verdict": "ok", "reason": "queueing does not grow", **figures}
