"""Ctrl-C ends a run between two events, where every request is in exactly one place."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from simpy.events import Event

from .events import ARRIVALS, Clock, Moment


@contextmanager
def interruptible(env: Clock) -> Iterator[None]:
    """While this lasts, Ctrl-C raises `KeyboardInterrupt` out of `env.run` at the next event; a second one at once.

    Outside the main thread nothing changes: signals do not arrive there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_: Event) -> None:
        raise KeyboardInterrupt

    def handler(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, previous)
        Moment(env, env.now, ARRIVALS, stop)

    previous = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
