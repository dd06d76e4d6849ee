"""Clocks of runs that take real time: environments of SimPy, in ticks, that also know the time between events."""

from __future__ import annotations

from abc import ABC, abstractmethod
from time import monotonic, sleep, thread_time

from ..costmodels.base import TICKS_PER_SECOND, ticks
from ..sim.events import NEVER, Clock


class RealClock(Clock, ABC):
    """Events one by one, each when its time has come."""

    def run(self, until: int | None = None) -> None:  # type: ignore[override]
        """Let all events happen, or those before `until`; time begins now."""
        self._start()
        end = NEVER if until is None else until
        while (at := self.peek()) < end:
            self._wait(at)
            self.step()
        if until is not None:
            self._now = until

    @abstractmethod
    def ticks(self) -> int:
        """The time now."""

    @abstractmethod
    def _start(self) -> None:
        """This moment is tick 0."""

    @abstractmethod
    def _wait(self, at: int) -> None:
        """Until a tick has come."""


class WallClock(RealClock):
    """Events happen at their time by the wall clock, or as soon afterwards as they can."""

    _zero = 0.0  # seconds of the monotonic clock

    def _start(self) -> None:
        self._zero = monotonic()

    def _wait(self, at: int) -> None:
        while (left := self._zero + at / TICKS_PER_SECOND - monotonic()) > 0:
            sleep(left)

    def ticks(self) -> int:
        """The time now."""
        return ticks(monotonic() - self._zero)


class CpuClock(RealClock):
    """Time passes as this thread uses the processor, and in a jump where nothing is to be done.

    For engines that compute on a CPU with one thread: on a machine that others use as well, the same run takes the same
    time, and nobody waits for the next arrival.
    """

    _began = 0.0  # processor time when the event at `now` began

    def _start(self) -> None:
        self._began = thread_time()

    def _wait(self, at: int) -> None:
        self._began = thread_time()

    def ticks(self) -> int:
        """The time now."""
        return self.now + ticks(thread_time() - self._began)
