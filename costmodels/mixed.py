"""Pieces of a stage whose attention was measured in whole batches: prompts with decodes, uneven contexts."""

from __future__ import annotations

from collections.abc import Sequence

from .base import Chunk, Piece, ticks
from .grid import Grid
from .launch import Launch
from .operators import OperatorTimes, StageOperators
from .stage import Cells, Memory, Stage
from .uneven import Uneven


class MixedStage(Stage):
    """A `Stage` that prices a batch of prompts and decodes by its own measurement, not by the sum of two.

    grids : for each layer group, seconds of one layer over (tokens of prompts, their context, decodes, mean context).
    uneven : the correction for contexts that differ, or None.

    A mixed call with several prompt parts is looked up as one part with all their tokens, at their mean context
    weighted by tokens; the difference between what the parts take without decodes and what that one part takes is
    added. A mixed piece holds for one iteration: along a run its time is a product of two growing contexts. Batches of
    decodes alone are exact pieces, with and without the correction; batches of prompts alone are those of `Stage`.
    """

    def __init__(
        self,
        operators: StageOperators,
        times: OperatorTimes,
        launch: Launch,
        grids: Sequence[Grid],
        uneven: Uneven | None,
    ) -> None:
        super().__init__(operators, times, launch)
        self._grids = [(group.count, grid) for group, grid in zip(operators.layers, grids, strict=True)]
        self._uneven = uneven
        self._pairs: Memory[tuple[int, float], tuple[Cells, Cells]] = Memory(self._compile_pair)

    def piece(
        self, chunks: Sequence[Chunk], decodes: int, context_sum: int, context_min: int, context_max: int
    ) -> Piece:
        """See `StageCost.piece`."""
        uneven = self._uneven
        if not decodes:
            return super().piece(chunks, 0, 0, 0, 0)
        if chunks:
            return self._mixed(chunks, decodes, context_sum, context_min, context_max)
        if uneven is not None:
            alpha, holds = uneven.alpha(0, decodes, context_sum, context_min, context_max, 0)
            if alpha:
                return self._decodes_apart(decodes, context_sum, decodes * context_max, alpha, holds)
            base, slope, valid, outside = super().piece((), decodes, context_sum, 0, 0)
            return base, slope, min(valid, holds), outside
        return super().piece((), decodes, context_sum, 0, 0)

    def _decodes_apart(self, decodes: int, context_sum: int, greatest_sum: int, alpha: float, holds: int) -> Piece:
        """(1 - alpha) x the time at the mean context + alpha x the time at the greatest, each rounded to ticks on its
        own, so that both grow exactly linearly."""
        pair = self._pairs[decodes, alpha]
        _, base, outside = self._decodes[decodes]
        slope, valid = 0, holds
        for cells, x in zip(pair, (context_sum, greatest_sum), strict=True):
            end, offset, rate, step, measured = cells.around(x)
            part = offset + rate * x
            base, slope = base + part, slope + step
            outside += 0 if measured else abs(part)
            valid = min(valid, (end - 1 - x) // decodes + 1)
        return base, slope, valid, min(outside, base)

    def _compile_pair(self, key: tuple[int, float]) -> tuple[Cells, Cells]:
        decodes, alpha = key
        curve = self._decode_curve(decodes)
        return Cells(curve.times(1 - alpha), decodes), Cells(curve.times(alpha), decodes)

    def _mixed(
        self, chunks: Sequence[Chunk], decodes: int, context_sum: int, context_min: int, context_max: int
    ) -> Piece:
        tokens = sum([chunk for chunk, _ in chunks])
        before = sum([chunk * context for chunk, context in chunks]) / tokens
        seconds, inside = self._call(tokens, before, decodes, context_sum / decodes)
        if self._uneven is not None:
            alpha, _ = self._uneven.alpha(tokens, decodes, context_sum, context_min, context_max, before)
            if alpha:
                most, reached = self._call(tokens, before, decodes, context_max)
                seconds += alpha * max(0.0, most - seconds)  # noise must not turn the correction round
                inside = inside and reached
        call = ticks(seconds)
        if len(chunks) > 1:
            call = max(1, call + self._parts(chunks)[0] - self._parts([(tokens, int(before))])[0])
        of_tokens, more = self._tokens[tokens + decodes]
        of_sequences, most_sequences = self._sequences[decodes + len(chunks)]
        outside = more + most_sequences + (0 if inside else call)
        return call + of_tokens + of_sequences + self._waits, 0, 1, outside

    def _call(self, tokens: int, before: float, decodes: int, context: float) -> tuple[float, bool]:
        seconds, inside = 0.0, True
        for count, grid in self._grids:
            time, measured = grid.at(tokens, before, decodes, context)
            seconds, inside = seconds + count * time, inside and measured
        return seconds, inside
