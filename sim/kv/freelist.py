"""Blocks in nobody's hands, in the order in which they are handed out: by age, or by what they are worth."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Any


class Run:
    """Consecutive blocks of a chain that live and die together, tail first.

    key : the prefix id, None for blocks that only one request, or nobody, can find.
    size : blocks when all of them are there. cached : how many are, from the first on. holders : requests using them.
    hits : requests that have used them. worth : what an eviction policy gives for them. place : in a `WorthList`.
    """

    __slots__ = ("cached", "hits", "holders", "key", "newer", "older", "place", "size", "worth")

    older: Run
    newer: Run
    place: tuple[float, int]

    def __init__(
        self, key: int | None, size: int, cached: int, holders: int = 0, hits: int = 1, worth: float = 0.0
    ) -> None:
        self.key = key
        self.size = size
        self.cached = cached
        self.holders = holders
        self.hits = hits
        self.worth = worth

    def __reduce__(self) -> tuple[Any, ...]:
        return Run, (self.key, self.size, self.cached, self.holders, self.hits, self.worth)


class AgeList:
    """Least recently used first: a ring of runs around a stop, from the oldest to the newest."""

    __slots__ = ("_stop",)

    floor = 0.0

    def __init__(self) -> None:
        self._stop = Run(None, 0, 0)  # the newest run is older than it, the oldest newer
        self._stop.older = self._stop.newer = self._stop

    def append(self, run: Run) -> None:
        """The newest."""
        newest = self._stop.older
        run.older, run.newer = newest, self._stop
        newest.newer = self._stop.older = run

    def append_forgotten(self, blocks: int) -> None:
        """Blocks whose contents nobody will ask for."""
        newest = self._stop.older
        if newest.key is None and not newest.size and newest is not self._stop:
            newest.cached += blocks
        elif blocks:
            self.append(Run(None, 0, blocks))

    def remove(self, run: Run) -> None:
        """Somebody takes it."""
        run.older.newer, run.newer.older = run.newer, run.older

    evict = remove

    def first(self) -> Run:
        """The one whose blocks go next. The list is not empty."""
        return self._stop.newer

    def __iter__(self) -> Iterator[Run]:
        run = self._stop.newer
        while run is not self._stop:
            yield run
            run = run.newer

    def __getstate__(self) -> list[Run]:
        """For a checkpoint as a list, since a chain of links would be followed link by link."""
        return [*self]

    def __setstate__(self, runs: list[Run]) -> None:
        AgeList.__init__(self)
        for run in runs:
            self.append(run)


class WorthList:
    """Least worth first, then least recently used; what nobody will ask for goes before everything."""

    __slots__ = ("_blank", "_count", "_runs", "floor")

    def __init__(self) -> None:
        self.floor = 0.0  # the worth of what was evicted last
        self._blank = Run(None, 0, 0)
        self._runs: list[tuple[tuple[float, int], Run]] = []
        self._count = 0

    def append(self, run: Run) -> None:
        """Put a run at its place."""
        self._count += 1
        run.place = (run.worth, self._count)
        insort(self._runs, (run.place, run))  # places are never equal

    def append_forgotten(self, blocks: int) -> None:
        """Blocks whose contents nobody will ask for."""
        self._blank.cached += blocks

    def remove(self, run: Run) -> None:
        """Somebody takes it."""
        if run is not self._blank:
            del self._runs[bisect_left(self._runs, (run.place,))]

    def evict(self, run: Run) -> None:
        """The first one is forgotten."""
        if run is not self._blank:
            del self._runs[0]
            self.floor = run.worth

    def first(self) -> Run:
        """The one whose blocks go next. The list is not empty."""
        return self._blank if self._blank.cached else self._runs[0][1]

    def __iter__(self) -> Iterator[Run]:
        if self._blank.cached:
            yield self._blank
        yield from [run for _, run in self._runs]

    def __getstate__(self) -> tuple[Any, ...]:
        return self._blank, self._runs, self._count, self.floor

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._blank, self._runs, self._count, self.floor = state
        for place, run in self._runs:
            run.place = place
