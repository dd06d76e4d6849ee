"""Data-parallel ranks that share experts: every iteration of one is an iteration of all, as long as the slowest."""

from __future__ import annotations

from collections.abc import Sequence

from simpy.events import Event

from ..events import Clock, Moment, Turn
from .domain import Domain
from .leap import first_boundary, span


class LockstepLane(Domain):
    """One rank of a `Lockstep`: a domain that decides by itself and lets the group keep the time."""

    group: Lockstep

    def begin_leap(self, now: int) -> bool:
        """Decide and launch; False if this lane has nothing to do."""
        self._attend(now)
        return self._begin(now, now)

    def outlook(self) -> tuple[int, int]:
        """The group may be quicker to look again than this lane."""
        return self.free_now(), self.env.now

    def end_leap(self, now: int, iterations: int) -> None:
        """Book the `iterations` that end now."""
        if self.batch is not None:
            self.iterations = iterations
            self._complete(self.batch, now)

    def _wake_now(self) -> None:
        self.group.wake()

    def _cut(self, k: int) -> None:
        self.group.cut(k)


class Lockstep:
    """Keeps the common time of its lanes. A lane with nothing to do runs along empty, as vLLM's dummy batches do.

    An iteration takes as long as that of the slowest lane; a leap ends where another lane would become the slowest.
    """

    def __init__(self, env: Clock, turn: Turn, place: int, lanes: Sequence[LockstepLane]) -> None:
        self.env = env
        self.turn = turn
        self.place = place
        self.lanes = lanes
        for lane in lanes:
            lane.group, lane.place = self, place
        self._iterations = 0  # of the leap under way, 0 = idle
        self._start = self._base = self._slope = 0
        self._alarm: Moment | None = None

    def wake(self) -> None:
        """Somebody has come to an idle lane: look at the next boundary, at once if all are idle."""
        if self._iterations == 0:
            if self._alarm is None:
                self._wake_at(self.env.now)
        elif self._iterations > 1:
            now = self.env.now
            past_mine = self.turn.tick == now and self.turn.place >= self.place
            self.cut(first_boundary(self._base, self._slope, now - self._start, past_mine))

    def cut(self, k: int) -> None:
        """End the leap of all lanes after `k` iterations."""
        if k < self._iterations:
            self._iterations = k
            self._wake_at(self._start + span(self._base, self._slope, k))

    def _wake_at(self, tick: int) -> None:
        self._alarm = Moment(self.env, tick, self.place, self._boundary)

    def _boundary(self, event: Event) -> None:
        if event is not self._alarm:
            return
        self._alarm = None
        now = self.env.now
        self.turn.tick, self.turn.place = now, self.place
        for lane in self.lanes:
            lane.end_leap(now, self._iterations)
        busy = [lane for lane in self.lanes if lane.begin_leap(now)]
        if not busy:
            self._iterations = 0
            return
        slowest = max(busy, key=lambda lane: (lane.base, lane.slope))
        limit = min(lane.iterations for lane in busy)
        for lane in busy:
            if lane.slope > slowest.slope:
                limit = min(limit, (slowest.base - lane.base) // (lane.slope - slowest.slope) + 1)
        self._start, self._base, self._slope, self._iterations = now, slowest.base, slowest.slope, limit
        for lane in busy:
            lane.base, lane.slope, lane.iterations = self._base, self._slope, limit
        self._wake_at(now + span(self._base, self._slope, limit))
