"""Joules of operators, compiled like their times: a stage of them keeps the law of pieces, so leaps total exactly.

`base` and `slope` of such a piece count 2**-36 joules.

A locked clock. Of what a device draws beyond its idle power, a part follows the clock with f x V**2, the voltage taken
in proportion to the clock; the rest goes with the bytes that are moved, whose number the clock does not change:

    watts = idle + (watts without a lock - idle) x (MOVING x unslowed + (1 - MOVING) x share ** 3)

share : of the unlocked clock. unslowed : seconds without a lock / seconds at the clock, 1 where memory bounds a kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..configs.device import HardwareCard
from .curve import Curve, total
from .operators import AttentionCall, Collective, OperatorTimes, RowOperator, StageOperators, Timing

# Shares of the rated power, from the H200 tables of aiconfigurator with measured power (vLLM 0.22.0, 700 W): kernels
# bound by memory draw 425 to 464 W (matrices of 1 to 16 rows), the smallest kernels 130 W.
_BUSY, _IDLE = 0.6, 0.18

# Not measured here: one number and one exponent that meet what is published within its spread (docs/cost-tables.md).
# Decoding at 180 instead of 2,842 MHz takes 42 % less energy and 1 to 6 % more time (RTX PRO 6000, arXiv 2501.08219).
MOVING, EXPONENT = 0.4, 3


def busy_watts(hardware: HardwareCard, unslowed: float = 1.0) -> float | None:
    """Power of a device while it runs kernels whose power was not measured: an assumption."""
    idle = idle_watts(hardware)
    if hardware.tdp_watts is None or idle is None:
        return None
    return at_clock(_BUSY * hardware.tdp_watts, idle, hardware, unslowed)


def idle_watts(hardware: HardwareCard) -> float | None:
    """Power of a device that waits: the card's, else an assumption."""
    if hardware.idle_watts is not None or hardware.tdp_watts is None:
        return hardware.idle_watts
    return _IDLE * hardware.tdp_watts


def at_clock(watts: float, idle: float, hardware: HardwareCard, unslowed: float = 1.0) -> float:
    """What a kernel that draws `watts` without a lock draws at the clock of `hardware`."""
    share = hardware.clock_share
    if share == 1:
        return watts
    return idle + (watts - idle) * (MOVING * unslowed + (1 - MOVING) * share**EXPONENT)


class Energy:
    """Joules of one device: the seconds of `times` at a constant power."""

    def __init__(self, times: OperatorTimes, watts: float) -> None:
        self._times, self._watts = times, watts

    def rows(self, operator: RowOperator, rows: int) -> Timing:
        return self._of(self._times.rows(operator, rows))

    def collective(self, operator: Collective, rows: int) -> Timing:
        return self._of(self._times.collective(operator, rows))

    def attention(self, operator: AttentionCall) -> Timing:
        return self._of(self._times.attention(operator))

    def decode(self, operator: AttentionCall, decodes: int) -> Curve:
        return self._times.decode(operator, decodes).times(self._watts)

    def prefill(self, operator: AttentionCall, tokens: int) -> Curve:
        return self._times.prefill(operator, tokens).times(self._watts)

    def together(self, operator: AttentionCall, parts: int, tokens: int) -> Timing:
        return self._of(self._times.together(operator, parts, tokens))

    def describe(self, operators: Sequence[StageOperators]) -> dict[str, object]:
        return self._times.describe(operators)

    def _of(self, timing: Timing) -> Timing:
        return timing[0] * self._watts, timing[1] * self._watts


class Slowed:
    """Seconds that a locked clock adds to operators: those of `times` beyond those of `free`."""

    def __init__(self, times: OperatorTimes, free: OperatorTimes) -> None:
        self._times, self._free = times, free

    def rows(self, operator: RowOperator, rows: int) -> Timing:
        return self._times.rows(operator, rows)[0] - self._free.rows(operator, rows)[0], 0.0

    def collective(self, operator: Collective, rows: int) -> Timing:
        return 0.0, 0.0

    def attention(self, operator: AttentionCall) -> Timing:
        return 0.0, 0.0

    def decode(self, operator: AttentionCall, decodes: int) -> Curve:
        return total([self._times.decode(operator, decodes), self._free.decode(operator, decodes).times(-1)])

    def prefill(self, operator: AttentionCall, tokens: int) -> Curve:
        return total([self._times.prefill(operator, tokens), self._free.prefill(operator, tokens).times(-1)])

    def together(self, operator: AttentionCall, parts: int, tokens: int) -> Timing:
        slow, free = (times.together(operator, parts, tokens)[0] for times in (self._times, self._free))
        return slow - free, 0.0

    def describe(self, operators: Sequence[StageOperators]) -> dict[str, object]:
        return self._times.describe(operators)
