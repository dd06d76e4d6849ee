"""Capacity points measured on all cores: each by itself, so that a result does not depend on how many there are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any, Literal

from .judge import Judge
from .points import Capacity

Point = tuple[Literal["alone", "saturated", "at_rate"], tuple[Any, ...]]  # a method of `Capacity`, and its arguments

_FEW = 4  # points for which starting processes does not pay


def prefetch(capacity: Capacity, points: Sequence[Point]) -> None:
    """Measure `points` into the cache of `capacity`, side by side where there are several cores."""
    workers = min(os.cpu_count() or 1, len(points))
    if workers < 2 or len(points) < _FEW:
        return
    stripped = replace(capacity, judge=capacity.judge.worker())
    with ProcessPoolExecutor(workers) as pool:
        for judge in pool.map(_measure, [(stripped, point) for point in points]):
            capacity.judge.merge(judge)


def _measure(job: tuple[Capacity, Point]) -> Judge:
    capacity, (kind, arguments) = job
    own = replace(capacity, judge=capacity.judge.worker())
    getattr(own, kind)(*arguments)
    return own.judge
