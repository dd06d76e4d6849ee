"""The state of every engine over time: running, waiting, KV use and tokens per second, as averages over equal bins."""

from __future__ import annotations

from math import ceil

import numpy as np
from numpy.typing import NDArray

from ..costmodels.base import TICKS_PER_SECOND
from .run import Run

Floats = NDArray[np.float64]
BINS = 600
_WIDTHS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400)


def bin_width(run: Run) -> float:
    """Seconds a bin, a round number that gives at most 600 of them."""
    span = run.duration / TICKS_PER_SECOND
    return float(next((w for w in _WIDTHS if span / w <= BINS), ceil(span / BINS)))


def time_series(run: Run, width: float | None = None) -> dict[str, NDArray]:
    """One row a bin and engine, in that order: columns t (start of the bin, s), replica, engine, and the averages.

    running, waiting : requests. kv_cache_usage : share of the engine's blocks. prompt_throughput,
    generation_throughput : tokens/s. A leap's tokens count evenly over its time.
    """
    width = width or bin_width(run)
    step = int(width * TICKS_PER_SECOND)
    bins = max(1, -(-run.duration // step))
    columns: dict[str, list[NDArray]] = {}
    for engine, (info, table) in enumerate(zip(run.engines, run.recorder.leaps, strict=True)):
        c = table.columns()
        total = c["iterations"] * c["base"] + c["slope"] * (c["iterations"] * (c["iterations"] - 1) // 2)
        bounds = (c["start"], c["start"] + total)
        seconds = np.maximum(total, 1) / TICKS_PER_SECOND
        rows = {
            "t": np.arange(bins) * width,
            "replica": np.full(bins, info.replica),
            "engine": np.full(bins, engine),
            "running": _averages(*bounds, c["decodes"] + c["prefills"], step, bins),
            "waiting": _averages(*_until_next(c["start"], run.duration), c["waiting"], step, bins),
            "kv_cache_usage": _averages(*bounds, c["used_blocks"], step, bins) / info.total_blocks,
            "prompt_throughput": _averages(*bounds, c["iterations"] * c["prefill_tokens"] / seconds, step, bins),
            "generation_throughput": _averages(*bounds, c["iterations"] * c["decodes"] / seconds, step, bins),
        }
        for name, values in rows.items():
            columns.setdefault(name, []).append(values)
    return {name: np.stack(parts, axis=1).ravel() for name, parts in columns.items()}


def _until_next(start: NDArray, end: int) -> tuple[NDArray, NDArray]:
    return start, np.append(start[1:], end) if len(start) else start


def _averages(start: NDArray, end: NDArray, value: NDArray, step: int, bins: int) -> Floats:
    """Time averages over bins of a quantity that is `value` from `start` to `end` (ticks), and the sum where they overlap."""
    # The integral up to t is linear between the bounds: sum it at the edges of the bins, from the changes of its slope.
    edges = np.arange(bins + 1, dtype=np.int64) * step
    integral = np.zeros(bins + 1)
    for bound, sign in ((start, 1.0), (end, -1.0)):
        order = np.argsort(bound, kind="stable")
        at = bound[order]
        weight = sign * value[order].astype(np.float64)
        slope = np.concatenate([[0.0], np.cumsum(weight)])
        offset = np.concatenate([[0.0], np.cumsum(weight * (at / step))])
        before = np.searchsorted(at, edges, side="right")
        integral += slope[before] * (edges / step) - offset[before]
    return np.maximum(np.diff(integral), 0.0)
