"""Simulations on all cores: each by itself, so that a result does not depend on how many there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeVar

from ..orphans import end_with_parent
from .judge import Judge
from .points import Capacity

J = TypeVar("J")
R = TypeVar("R")
Method = Literal["alone", "saturated", "cold", "prompts", "at_rate", "replay"]
Point = tuple[Method, tuple[Any, ...]]  # of `Capacity`, with arguments


def prefetch(capacity: Capacity, jobs: Sequence[Sequence[Point]]) -> None:
    """Simulate points into the cache of `capacity`, jobs side by side where there are several cores.

    The points of a job share what is made ready for them: those of the same GPUs and parallelism belong together.
    """
    judge = capacity.judge
    missing = [points for points in jobs if not judge.knows(partial(_ask, capacity, points))]
    workers = min(os.cpu_count() or 1, len(missing))
    if workers < 2:
        return
    for worker in side_by_side(_simulate, [(replace(capacity, judge=judge.worker()), points) for points in missing]):
        judge.merge(worker)


def side_by_side(work: Callable[[J], R], jobs: Sequence[J]) -> Iterator[R]:
    """What `work` makes of each job, in their order, each in a process of its own."""
    with ProcessPoolExecutor(max(1, min(os.cpu_count() or 1, len(jobs))), initializer=end_with_parent) as pool:
        yield from pool.map(work, jobs)


def _simulate(job: tuple[Capacity, Sequence[Point]]) -> Judge:
    capacity, points = job
    _ask(capacity, points, capacity.judge)
    return capacity.judge


def _ask(capacity: Capacity, points: Sequence[Point], judge: Judge) -> None:
    own = replace(capacity, judge=judge)
    for kind, arguments in points:
        getattr(own, kind)(*arguments)
