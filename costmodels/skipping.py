"""A stage whose decodes run some of its layers: what an iteration is expected to cost."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ..configs.layers import ExecutedLayers
from .base import Chunk, Piece, ticks
from .curve import Curve, total
from .launch import Launch
from .operators import OperatorTimes, StageOperators
from .stage import Cells, Stage

_CHORDS = 8  # straight pieces between two given shares, where share and attention change together


class SkippingStage(Stage):
    """As `Stage`, with layers that run in a share of the iterations (`path` "batch") or for a share of the tokens.

    Where each of n tokens runs a layer with probability p, the layer is read unless all skip it, (1 - p)^n, and has
    n p / (1 - (1 - p)^n) rows when it is. Beside prompts, which run all layers, no layer is left out. A piece of
    prompts and decodes holds for one iteration.
    """

    def __init__(
        self, operators: StageOperators, times: OperatorTimes, launch: Launch, executed: ExecutedLayers
    ) -> None:
        super().__init__(operators, times, launch)
        self._executed = executed

    def piece(
        self, chunks: Sequence[Chunk], decodes: int, context_sum: int, context_min: int, context_max: int
    ) -> Piece:
        """See `StageCost.piece`."""
        if not (chunks and decodes):
            return super().piece(chunks, decodes, context_sum, context_min, context_max)
        base, _, _, unmeasured, tokens = self._parts(chunks)
        share = self._executed.at(context_sum / decodes)
        with_all, more = self._tokens[tokens + decodes]
        without, _ = self._tokens[tokens]
        once = self._once(tokens + decodes) - self._once(tokens)
        if self._executed.path == "batch":  # a layer that decodes skip has the prompts' rows
            rows = without + once + round(share * (with_all - without - once))
            attention = share * self._whole_decode_curve(decodes).at(context_sum)
        else:
            running = max(1, round(share * decodes))
            rows = self._tokens[tokens + running][0] + self._once(tokens + decodes) - self._once(tokens + running)
            attention = self._whole_decode_curve(running).at(context_sum * running / decodes)
        of_sequences, most = self._sequences[decodes + len(chunks)]
        base += rows + of_sequences + ticks(attention) + self._waits
        return base, 0, 1, unmeasured + more + most

    def _once(self, tokens: int) -> int:
        """Ticks of the operators by tokens that are in no layer."""
        return ticks(self._rows(self._operators.tokens, self._launch.graph(tokens, True) or tokens)[0])

    def _compile_decode(self, decodes: int) -> tuple[Cells, int, int]:
        """The grid of layers, rows and attention together, and the rest of an iteration."""
        once = self._launch.graph(decodes, False) or decodes
        seconds, outside = self._rows(self._operators.tokens, once)
        of_sequences, most = self._sequences[decodes]
        return Cells(self._decode_curve(decodes), decodes), ticks(seconds) + of_sequences, ticks(outside) + most

    def _decode_curve(self, decodes: int) -> Curve:
        if self._executed.path == "token":
            share = self._executed.share
            read = 1 - (1 - share) ** decodes
            running = max(1, round(share * decodes / read))
            return self._layers(running).stretched(decodes / running).times(read)
        curve = self._layers(decodes)
        points = self._executed.by_context
        if not points:
            return curve.times(self._executed.share)
        contexts = {0.0, *(context for context, _ in points)}
        for (start, _), (end, _) in pairwise(points):
            contexts |= {start + (end - start) * i / _CHORDS for i in range(1, _CHORDS)}
        xs = sorted({*(context * decodes for context in contexts), *curve.xs})
        ys = [self._executed.at(x / decodes) * curve.at(x) for x in xs]
        return Curve(tuple(xs), tuple(ys), points[-1][1] * curve.slope, curve.measured)

    def _layers(self, decodes: int) -> Curve:
        """Seconds of all layers over the sum of contexts."""
        padded = self._launch.graph(decodes, False) or decodes
        seconds = 0.0
        for group in self._operators.layers:
            rows, call = self._layer(group, padded)[0], self._times.attention(group.attention)[0]
            seconds += group.count * (rows + call)
        return total([self._whole_decode_curve(decodes), Curve.line(seconds, 0)])

    def _whole_decode_curve(self, decodes: int) -> Curve:
        return super()._decode_curve(decodes)
