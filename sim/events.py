"""Events as plain callbacks with a fixed order among those of one tick, so that ties never depend on who leapt."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any

from simpy import Environment
from simpy.events import Event

NEVER = 1 << 63  # a run's results have no room for this tick
ARRIVALS = 0  # the place of everything that comes from outside; engines have the places from 1 on
LOOKS = 1 << 62  # the place of who looks at everybody now and then: after all others
_END = -1


class Clock(Environment):
    """SimPy's environment, with time in whole ticks from 0, and a plainer loop: half a million events a run."""

    _now: int
    _queue: list[Any]

    def __init__(self) -> None:
        super().__init__(initial_time=0)

    def __reduce__(self) -> tuple[Any, ...]:
        next_id = self._eid.__reduce__()[1][0]
        return Clock, (), (self._now, self._queue, next_id)

    def __setstate__(self, state: tuple[int, list[Any], int]) -> None:
        self._now, self._queue, next_id = state
        self._eid = count(next_id)

    @property
    def now(self) -> int:
        """The current tick."""
        return self._now

    def peek(self) -> int:
        """The tick of the next event."""
        queue = self._queue
        return queue[0][0] if queue else NEVER

    def run(self, until: int | None = None) -> None:  # type: ignore[override]
        """Let all events happen, or those before `until`."""
        queue = self._queue
        end = NEVER if until is None else until
        if until is not None:
            Moment(self, until, _END, lambda _: None)  # for who asks what comes next: nobody leaps past it
        while queue and queue[0][0] < end:
            self._now, _, _, event = heappop(queue)
            callbacks, event.callbacks = event.callbacks, None
            for callback in callbacks:
                callback(event)
            if not event._ok and not hasattr(event, "_defused"):
                raise event._value
        if until is not None:
            self._now, *_ = heappop(queue)


class Moment(Event):
    """A callback at a tick, with its place among the events of that tick: the smallest place comes first."""

    def __init__(self, env: Clock, at: int, place: int, callback: Callable[[Event], object]) -> None:
        self.env = env
        self.callbacks = [callback]  # type: ignore[list-item]
        self._value = None
        self._ok = True
        heappush(env._queue, (at, place, next(env._eid), self))


class Turn:
    """Whose turn it was last at the current tick, so that ties fall the same way however far anyone leaps."""

    __slots__ = ("place", "tick")

    def __init__(self) -> None:
        self.tick = self.place = -1
