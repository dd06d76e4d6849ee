"""Measured operators at a locked clock: each in proportion to what the roofline says that the clock does to it.

A table was measured on a device without a lock. An operator that arithmetic bounds takes longer at a lower clock; one
that memory traffic bounds does not, until its arithmetic takes longer than that. The part of a call that it takes
whatever its size stays, and messages between devices stay. Joules follow `energy.at_clock`.
"""

from __future__ import annotations

from ..configs.device import HardwareCard
from ..configs.model import ModelCard, Parallelism
from .curve import Curve, total
from .energy import EXPONENT, MOVING, Energy, busy_watts, idle_watts
from .grid import Grid
from .measured import TableTimes
from .operators import AttentionCall, Collective, OperatorTimes, RowOperator, Timing
from .roofline import RooflineTimes
from .stage import Memory
from .table import TableSet


class ClockedTables(TableTimes):
    """`TableTimes` of a device whose clock is locked.

    free : the seconds without a lock. watts : None for seconds; else everything is joules, with so many watts where no
    power was measured.
    """

    def __init__(
        self, tables: TableSet, card: ModelCard, parallel: Parallelism, hardware: HardwareCard, *, routing: str,
        watts: float | None = None,
    ) -> None:  # fmt: skip
        unlocked = RooflineTimes(hardware.unlocked())
        super().__init__(
            tables, card, parallel, unlocked if watts is None else Energy(unlocked, watts),
            routing=routing, gpus_per_node=hardware.gpus_per_node, joules=watts,
        )  # fmt: skip
        self._hardware = hardware
        self.free = TableTimes(tables, card, parallel, unlocked, routing=routing, gpus_per_node=hardware.gpus_per_node)
        self._rule = _Rule.joules(hardware) if watts is not None else _Rule()
        self._longer = _Longer(RooflineTimes(hardware), unlocked)

    def joules(self, watts: float, behind: OperatorTimes) -> ClockedTables:
        """The same in joules. See `TableTimes.joules`; both arguments follow from the hardware."""
        free = busy_watts(self._hardware.unlocked())
        return ClockedTables(self.tables, self.card, self.parallel, self._hardware, routing=self.routing, watts=free)

    def rows(self, operator: RowOperator, rows: int) -> Timing:
        longer = self._longer.rows(operator, rows)
        return self._rule.timing(super().rows(operator, rows), self.free.rows(operator, rows), longer)

    def collective(self, operator: Collective, rows: int) -> Timing:
        return self._rule.timing(super().collective(operator, rows), self.free.collective(operator, rows), 1.0)

    def attention(self, operator: AttentionCall) -> Timing:
        return self._rule.timing(super().attention(operator), self.free.attention(operator), 1.0)

    def decode(self, operator: AttentionCall, decodes: int) -> Curve:
        seconds, longer = self.free.decode(operator, decodes), self._longer.decodes[operator, decodes]
        return self._rule.curve(super().decode(operator, decodes), seconds, longer)

    def prefill(self, operator: AttentionCall, tokens: int) -> Curve:
        seconds, longer = self.free.prefill(operator, tokens), self._longer.prompts[operator, tokens]
        return self._rule.curve(super().prefill(operator, tokens), seconds, longer)

    def together(self, operator: AttentionCall, parts: int, tokens: int) -> Timing:
        locked, free = self._longer.prompts[operator, max(1, tokens // parts)]
        seconds = self.free.together(operator, parts, tokens)
        return self._rule.timing(super().together(operator, parts, tokens), seconds, locked.at(0) / free.at(0))

    def mixed(self, operator: AttentionCall) -> Grid | None:
        grid, seconds = super().mixed(operator), self.free.mixed(operator)
        return _ClockedCalls(grid, seconds, self._rule, self._longer, operator) if grid and seconds else None


class _Longer:
    """Times of operators at the clock and without a lock, by the roofline."""

    def __init__(self, locked: RooflineTimes, free: RooflineTimes) -> None:
        self._both = locked, free
        self.decodes: Memory[tuple[AttentionCall, int], tuple[Curve, Curve]] = Memory(self._decode)
        self.prompts: Memory[tuple[AttentionCall, int], tuple[Curve, Curve]] = Memory(self._prefill)

    def rows(self, operator: RowOperator, rows: int) -> float:
        locked, free = (times.rows(operator, rows)[0] for times in self._both)
        return locked / free if free else 1.0  # experts may be fetched behind other operators

    def _decode(self, key: tuple[AttentionCall, int]) -> tuple[Curve, Curve]:
        locked, free = (total([t.decode(*key), Curve.line(t.attention(key[0])[0], 0)]) for t in self._both)
        return locked, free

    def _prefill(self, key: tuple[AttentionCall, int]) -> tuple[Curve, Curve]:
        locked, free = (total([t.prefill(*key), Curve.line(t.attention(key[0])[0], 0)]) for t in self._both)
        return locked, free


class _Rule:
    """What becomes of a value that was measured without a lock, of an operator that takes `longer` times its seconds.

    Seconds: all of them are stretched. Joules: idling and what follows the clock are, what moves bytes is not.
    """

    def __init__(self, idle: float = 0.0, moving: float = 0.0, core: float = 1.0) -> None:
        self._idle, self._moving, self._core = idle, moving, core

    @classmethod
    def joules(cls, hardware: HardwareCard) -> _Rule:
        return cls(idle_watts(hardware) or 0.0, MOVING, (1 - MOVING) * hardware.clock_share**EXPONENT)

    def at(self, value: float, seconds: float, longer: float) -> float:
        idle = self._idle * seconds
        return idle * longer + (value - idle) * (self._moving + self._core * longer)

    def timing(self, value: Timing, seconds: Timing, longer: float) -> Timing:
        now = self.at(value[0], seconds[0], longer)
        return now, now if value[1] else 0.0

    def curve(self, value: Curve, seconds: Curve, longer: tuple[Curve, Curve]) -> Curve:
        """Exact at every knot, and straight in between as the curves are."""
        locked, free = longer
        xs = sorted({*value.xs, *locked.xs, *free.xs})
        ys = [self.at(value.at(x), seconds.at(x), locked.at(x) / free.at(x)) for x in xs]
        beyond = locked.slope / free.slope if free.slope else locked.ys[-1] / free.ys[-1]
        return Curve(tuple(xs), tuple(ys), self.at(value.slope, seconds.slope, beyond), value.measured)


class _ClockedCalls(Grid):
    """Calls that compute prompts and decodes, over (tokens of prompts, their context, decodes, context of each)."""

    __slots__ = ("_longer", "_operator", "_rule", "_seconds")

    def __init__(self, grid: Grid, seconds: Grid, rule: _Rule, longer: _Longer, operator: AttentionCall) -> None:
        super().__init__(grid.xs, grid.below)
        self._seconds, self._rule, self._longer, self._operator = seconds, rule, longer, operator

    def at(self, *point: float) -> tuple[float, bool]:
        tokens, before, decodes, context = point
        prompts = self._longer.prompts[self._operator, int(tokens)]
        others = self._longer.decodes[self._operator, int(decodes)]
        locked, free = (p.at(before) + d.at(decodes * context) for p, d in zip(prompts, others, strict=True))
        value, inside = super().at(*point)
        return self._rule.at(value, self._seconds.at(*point)[0], locked / free), inside
