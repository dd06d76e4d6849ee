"""The state of every engine over time: running, waiting, KV use and tokens per second, as averages over equal bins."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
from numpy.typing import NDArray

from ...costmodels.base import TICKS_PER_SECOND
from ..run import Run

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
    generation_throughput : tokens/s. A leap's tokens count evenly over its time. Rows of requests do not say which
    engine of a replica had them, so whoever joins a queue while its engine leaps counts equally for all of them.
    """
    width = width or bin_width(run)
    step = int(width * TICKS_PER_SECOND)
    bins = max(1, -(-run.duration // step))
    columns: dict[str, list[NDArray]] = {}
    queues = [_Average(step, bins) for _ in run.engines]
    _newcomers(run, queues)
    for engine, (info, table) in enumerate(zip(run.engines, run.recorder.leaps, strict=True)):
        waiting, (running, used, prompt, generated) = queues[engine], (_Average(step, bins) for _ in range(4))
        last = run.duration
        for c in reversed(list(table.slices())):
            start = c["start"]
            total = c["iterations"] * c["base"] + c["slope"] * (c["iterations"] * (c["iterations"] - 1) // 2)
            end, seconds = start + total, np.maximum(total, 1) / TICKS_PER_SECOND
            running.add(start, end, c["decodes"] + c["prefills"])
            used.add(start, end, c["used_blocks"])
            prompt.add(start, end, c["iterations"] * c["prefill_tokens"] / seconds)
            generated.add(start, end, c["iterations"] * c["decodes"] / seconds)
            waiting.add(start, np.append(start[1:], last), c["waiting"])
            last = int(start[0])
        rows = {
            "t": np.arange(bins) * width,
            "replica": np.full(bins, info.replica),
            "engine": np.full(bins, engine),
            "running": running.values(),
            "waiting": waiting.values(),
            "kv_cache_usage": used.values() / info.total_blocks,
            "prompt_throughput": prompt.values(),
            "generation_throughput": generated.values(),
        }
        for name, values in rows.items():
            columns.setdefault(name, []).append(values)
    return {name: np.stack(parts, axis=1).ravel() for name, parts in columns.items()}


def _newcomers(run: Run, queues: Sequence[_Average]) -> None:
    """Who joins a queue waits there, unseen by the log of leaps, until the next leap begins."""
    mates: dict[int, list[int]] = {}
    for engine, info in enumerate(run.engines):
        mates.setdefault(info.replica, []).append(engine)
    starts = [table.columns()["start"] for table in run.recorder.leaps]
    for rows in run.recorder.requests.slices():
        for replica, engines in mates.items():
            queued = rows["queued"][(rows["replica"] == replica) & (rows["queued"] >= 0)]
            for engine in engines:
                until = np.append(starts[engine], run.duration)[np.searchsorted(starts[engine], queued)]
                queues[engine].add(queued, np.maximum(until, queued), np.full(len(queued), 1 / len(engines)))


class _Average:
    """Time averages over equal bins of a quantity that has a value from one tick to another; overlaps add up."""

    def __init__(self, step: int, bins: int) -> None:
        self._step = step
        self._edges = np.arange(bins + 1, dtype=np.int64) * step
        self._integral = np.zeros(bins + 1)

    def add(self, start: NDArray, end: NDArray, value: NDArray) -> None:
        """Let `value[i]` hold from `start[i]` to `end[i]`."""
        # The integral up to an edge is linear in it between the bounds: sum up slopes and offsets of all earlier ones.
        for bound, sign in ((start, 1.0), (end, -1.0)):
            order = np.argsort(bound, kind="stable")
            at, weight = bound[order], sign * value[order]
            slope = np.concatenate([[0.0], np.cumsum(weight)])
            offset = np.concatenate([[0.0], np.cumsum(weight * (at / self._step))])
            before = np.searchsorted(at, self._edges, side="right")
            self._integral += slope[before] * (self._edges / self._step) - offset[before]

    def values(self) -> Floats:
        """One average a bin."""
        return np.maximum(np.diff(self._integral), 0.0)
