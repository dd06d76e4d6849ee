"""Joules of operators, compiled like their times: a stage of them keeps the law of pieces, so leaps total exactly.

`base` and `slope` of such a piece count 2**-36 joules.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..configs.device import HardwareCard
from .curve import Curve
from .operators import AttentionCall, Collective, OperatorTimes, RowOperator, StageOperators, Timing

# Shares of the rated power, from the H200 tables of aiconfigurator with measured power (vLLM 0.22.0, 700 W): kernels
# bound by memory draw 425 to 464 W (matrices of 1 to 16 rows), the smallest kernels 130 W.
_BUSY, _IDLE = 0.6, 0.18


def busy_watts(hardware: HardwareCard) -> float | None:
    """Power of a device while it runs kernels whose power was not measured: an assumption."""
    return None if hardware.tdp_watts is None else _BUSY * hardware.tdp_watts


def idle_watts(hardware: HardwareCard) -> float | None:
    """Power of a device that waits: the card's, else an assumption."""
    if hardware.idle_watts is not None or hardware.tdp_watts is None:
        return hardware.idle_watts
    return _IDLE * hardware.tdp_watts


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
