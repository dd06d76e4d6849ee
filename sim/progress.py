"""Progress of a long run on standard error, when that is a terminal."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Ticker:
    """One line, rewritten at most twice a second: simulated time, requests ended, x real time, time to go."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._started = time.monotonic()
        self._shown = self._started
        self._width = 0

    def __call__(self, simulated: float, ended: int, total: int) -> None:
        """Show where a run stands."""
        now = time.monotonic()
        if now - self._shown < 0.5:
            return
        self._shown = now
        real = now - self._started
        left = real / ended * (total - ended)
        done = f"{simulated:,.0f} s simulated, {ended:,} of {total:,} requests"
        text = f"{done}, {simulated / real:,.0f} x real time, {left:,.0f} s to go"
        self._stream.write("\r" + text.ljust(self._width))
        self._stream.flush()
        self._width = len(text)

    def close(self) -> None:
        """Wipe the line."""
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()


def ticker() -> Ticker | None:
    """A ticker if anybody can see it."""
    return Ticker() if sys.stderr.isatty() else None
