"""Events as plain callbacks with a fixed order among those of one tick, so that ties never depend on who leapt."""

from __future__ import annotations

from collections.abc import Callable

from simpy import Environment
from simpy.events import Event

ARRIVALS = 0  # the place of everything that comes from outside; engines have the places from 1 on


class Moment(Event):
    """A callback at a tick, with its place among the events of that tick: the smallest place comes first."""

    def __init__(self, env: Environment, at: int, place: int, callback: Callable[[Event], object]) -> None:
        self.env = env
        self.callbacks = [callback]
        self._value = None
        self._ok = True
        env.schedule(self, place, at - env.now)


class Turn:
    """Whose turn it was last at the current tick, so that ties fall the same way however far anyone leaps."""

    __slots__ = ("place", "tick")

    def __init__(self) -> None:
        self.tick = self.place = -1
