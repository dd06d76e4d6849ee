"""What a page or a picture takes of a run's rows: a sample of all of them, and those of a window, in one pass.

A run may have ten million rows; they are read in chunks, and what is kept is bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from .frames import read_frame
from .report import FILES

if TYPE_CHECKING:
    from pandas import DataFrame

MOST = 100_000  # rows of a sample
IN_WINDOW = 2_000  # rows of a window
_PIECE = 50_000  # rows read at a time
_TYPICAL = 150  # requests that a window should show

Window = tuple[float, float]  # seconds of the run


@dataclass(frozen=True)
class Excerpt:
    """sample : every `step`-th row in order of submission. arriving, earlier : rows that arrive in `window`, and those
    that are still there when it begins, the first 2,000 of each; `overlapping` counts all of them."""

    rows: int
    step: int
    sample: DataFrame
    window: Window
    arriving: DataFrame
    earlier: DataFrame
    overlapping: int


def excerpt(folder: Path, data: dict[str, Any], window: Window | None = None) -> Excerpt:
    """From the files of a run. data : its report. window : by default some seconds of the busiest time."""
    series = read_frame(folder / FILES[2])
    chosen = window or busiest(series, data)
    rows, step, overlapping = 0, max(1, -(-int(data["num_prompts"]) // MOST)), 0
    sampled: list[DataFrame] = []
    arriving: list[DataFrame] = []
    earlier: list[DataFrame] = []
    for chunk in _chunks(folder / FILES[1]):
        sampled.append(chunk.iloc[(-rows) % step :: step].copy())  # a view would keep the whole piece alive
        rows += len(chunk)
        mine = chunk[(chunk["arrival_s"] < chosen[1]) & (chunk["ended_s"] > chosen[0])]
        overlapping += len(mine)
        for kept, some in ((arriving, mine["arrival_s"] >= chosen[0]), (earlier, mine["arrival_s"] < chosen[0])):
            kept.append(mine[some].iloc[: max(0, IN_WINDOW - sum(len(part) for part in kept))].copy())
    if window and not overlapping:
        found = f"no request between {window[0]:g} and {window[1]:g} s"
        raise InputError("--window", found, f"START:END within the {data['duration']:g} s of the run")
    from pandas import concat

    return Excerpt(rows, step, concat(sampled), chosen, concat(arriving), concat(earlier), overlapping)


def _chunks(path: Path) -> Iterator[DataFrame]:
    import pandas as pd

    kinds = {"request_id": str, "session": str, "model": str, "tenant": str, "request_class": str}
    with pd.read_csv(path, dtype=kinds, chunksize=_PIECE) as chunks:
        yield from chunks


def busiest(series: DataFrame, data: dict[str, Any]) -> Window:
    """Around the bin with the most requests waiting, or else running: as long as about 150 requests need to arrive."""
    load = series.groupby("t_s")[["waiting", "running"]].sum()
    column = "waiting" if float(load["waiting"].max()) > 1 else "running"
    middle = float(load.index.to_numpy(float)[int(load[column].to_numpy().argmax())])
    rate = (data["num_prompts"] / data["duration"]) if data["duration"] else 1.0
    width = _TYPICAL / max(rate, 1e-9)
    start = max(0.0, middle - width / 2)
    return start, start + width


def parse_window(text: str) -> Window:
    """From `START:END` in seconds."""
    start, colon, end = text.partition(":")
    try:
        window = float(start), float(end)
    except ValueError:
        window = (0.0, 0.0)
    if not colon or not 0 <= window[0] < window[1] < np.inf:
        raise InputError("--window", repr(text), "START:END in seconds, such as 60:75")
    return window


def slots(begin: Iterable[float], end: Iterable[float]) -> list[int]:
    """A row for each of some stays, in order of their beginnings, so that no two in a row overlap (greedy)."""
    import heapq

    free: list[int] = []
    busy: list[tuple[float, int]] = []
    used = 0
    found = []
    for start, stop in zip(begin, end, strict=True):
        while busy and busy[0][0] <= start:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if free:
            slot = heapq.heappop(free)
        else:
            slot, used = used, used + 1
        heapq.heappush(busy, (stop, slot))
        found.append(slot)
    return found
