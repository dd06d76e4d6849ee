"""Clocks of runs that take real time: environments of SimPy, in ticks, that also know the time between events."""

from __future__ import annotations

from time import monotonic, thread_time
from typing import Any

from simpy.rt import RealtimeEnvironment

from ..costmodels.base import TICKS_PER_SECOND, ticks
from ..sim.events import Clock


class WallClock(Clock, RealtimeEnvironment):
    """Events happen at their time by the wall clock, or as soon afterwards as they can."""

    def __init__(self) -> None:
        RealtimeEnvironment.__init__(self, initial_time=0, factor=1 / TICKS_PER_SECOND, strict=False)

    def run(self, until: Any = None) -> Any:
        """Time begins when the run does."""
        self.sync()
        return super().run(until)

    def ticks(self) -> int:
        """The time now."""
        return ticks(monotonic() - self.real_start)


class CpuClock(Clock):
    """Time passes as this thread uses the processor, and in a jump where nothing is to be done.

    For engines that compute on a CPU with one thread: on a machine that others use as well, the same run takes the same
    time, and nobody waits for the next arrival.
    """

    def __init__(self) -> None:
        super().__init__()
        self._began = 0.0  # processor time when the event at `now` began

    def step(self) -> None:
        """The next event."""
        self._began = thread_time()
        super().step()

    def ticks(self) -> int:
        """The time now."""
        return self.now + ticks(thread_time() - self._began)
