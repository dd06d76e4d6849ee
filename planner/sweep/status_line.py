"""One line on standard error that is written over and over, when that is a terminal."""

from __future__ import annotations

import sys
import time


class StatusLine:
    """Shows where long work stands; says nothing to a file or a pipe."""

    def __init__(self) -> None:
        self._shows = sys.stderr.isatty()
        self._width = 0
        self._started = time.monotonic()

    def show(self, text: str) -> None:
        """Replace the line."""
        if self._shows:
            sys.stderr.write("\r" + text.ljust(self._width))
            sys.stderr.flush()
            self._width = len(text)

    def bar(self, done: int, before: int, total: int, more: str) -> None:
        """Show how much of `total` is done, with the time to go; `before` of it was done when the line was made."""
        filled = 30 * done // total
        spent = time.monotonic() - self._started
        left = f", {spent / (done - before) * (total - done):,.0f} s to go" if done > before else ""
        self.show(f"[{'#' * filled}{'.' * (30 - filled)}] {done:,} of {total:,} {more}{left}")

    def close(self) -> None:
        """Wipe the line."""
        self.show("")
        self.show("")
