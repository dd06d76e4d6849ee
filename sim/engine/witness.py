"""Step by step: every promise that would have allowed a leap is asserted, iteration by iteration."""

from __future__ import annotations

from ..core import Step


class Witness:
    """The promise of the last fresh decision: the same step, `iterations` times, each `slope` ticks longer."""

    def __init__(self) -> None:
        self._step: Step | None = None
        self._left = 0
        self._expected = 0
        self._slope = 0

    def release(self) -> None:
        """Something happened that ends the promise."""
        self._step = None

    def check(self, step: Step, preempted: int, base: int, slope: int, iterations: int) -> None:
        """Compare a newly composed step and its cost with what was promised; then it is the promise, or goes on."""
        if preempted:
            self._step = None
        if self._step is not None and self._left > 0:
            assert step.same_work(self._step), f"promised {self._step}, composed {step}"
            assert base == self._expected, f"promised {self._expected} ticks, cost {base}"
            self._left -= 1
            self._expected += self._slope
        else:
            self._step, self._left, self._slope = step, iterations - 1, slope
            self._expected = base + slope
