"""Engines of several models on the same accelerators: one computes at a time, and its weights come when its turn does.

Whoever has work when nobody computes begins at once. Who comes later waits until the one that computes has had its
quantum or has nothing left to do; then the next in order of waiting begins, at an iteration boundary. Weights that are
not on the device cross the host's link first; nothing is written back, and KV caches stay where they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from .domain import Domain
from .leap import first_boundary


class TimeSharedDomain(Domain):
    """A domain that computes only in its turn. What its requests wait for others is interference."""

    gpu: TimeShare
    weights: float  # bytes on an accelerator that come and go; 0: they stay
    load_ticks: int

    def _set_up(self) -> None:
        self.loads = 0

    def _begin(self, now: int, start: int) -> bool:
        rank, gpu = self.rank, self.gpu
        self.batch, self.iterations = None, 0
        if not (rank.running or rank.waiting or rank.swapped):
            gpu.leave(self, now)
            return False
        if not gpu.grants(self, now):
            return False
        if not super()._begin(now, start):
            gpu.leave(self, now)
            return False
        if gpu.load(self):
            self.loads += 1
            self.base += self.load_ticks
            self.iterations = 1
        elif gpu.waiting:
            self.iterations = min(self.iterations, self._until(gpu.until))
        return True

    def _until(self, tick: int) -> int:
        """Iterations of the leap under way to the first boundary at a tick or after it."""
        return first_boundary(self.base, self.slope, max(0, tick - self.start))

    def make_way(self, tick: int) -> None:
        """Others wait: stop at the first boundary after now that is not before a tick."""
        if self.batch is not None and self.iterations > 1:
            self._cut(max(self._next_boundary(), self._until(tick)))

    def take_turn(self, now: int) -> None:
        """It is this one's turn."""
        if self._alarm is None:
            self._wake_at(now)


class TimeShare:
    """The accelerators under one engine of each pool.

    quantum : ticks. space : bytes of an accelerator for weights that come and go. until : when the turn of `holder` is
    over, if others wait then.
    """

    def __init__(self, lanes: Sequence[TimeSharedDomain], quantum: int, space: float) -> None:
        self.quantum, self.space = quantum, space
        self.holder: TimeSharedDomain | None = None
        self.until = 0
        self.waiting: dict[TimeSharedDomain, None] = {}  # in the order in which they came
        self._resident: dict[TimeSharedDomain, None] = {}  # least recently used first
        for lane in lanes:
            lane.gpu = self
            if lane.weights + self._taken() <= space:
                self._resident[lane] = None

    def _taken(self) -> float:
        return sum(lane.weights for lane in self._resident)

    def grants(self, lane: TimeSharedDomain, now: int) -> bool:
        """Whether an engine with work may compute; if not, it will be told."""
        if self.holder is lane and self.waiting and now >= self.until:
            self._pass_on(now)
        if self.holder is None:
            self.holder, self.until = lane, now + self.quantum
        if self.holder is lane:
            return True
        if lane not in self.waiting:
            self.waiting[lane] = None
            self.holder.make_way(self.until)
        return False

    def leave(self, lane: TimeSharedDomain, now: int) -> None:
        """An engine has nothing to do."""
        self.waiting.pop(lane, None)
        if self.holder is lane:
            self._pass_on(now)

    def _pass_on(self, now: int) -> None:
        self.holder = next(iter(self.waiting), None)
        if self.holder:
            del self.waiting[self.holder]
            self.until = now + self.quantum
            self.holder.take_turn(now)

    def load(self, lane: TimeSharedDomain) -> bool:
        """Whether the holder's weights have to come; then they are there, and the quantum begins after them."""
        if not lane.weights:
            return False
        there = lane in self._resident
        self._resident.pop(lane, None)
        while self._taken() + lane.weights > self.space:
            del self._resident[next(iter(self._resident))]
        self._resident[lane] = None
        if not there:
            self.until += lane.load_ticks
        return not there
