"""Compiles the operators of a pipeline stage and their times into exact pieces of whole ticks (`StageCost`)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from .base import FOREVER, Chunk, Piece, ticks
from .curve import Curve, segment, total
from .launch import Launch
from .operators import Collective, LayerOperators, OperatorTimes, RowOperator, StageOperators, Timing

_KEPT = 1 << 14  # entries a memory may hold before it starts afresh

K = TypeVar("K")
T = TypeVar("T")
_Cost = tuple[int, int]  # ticks, and how many of them are not measured
_Cell = tuple[int, int, int, int, bool]  # end, offset, rate, ticks an iteration adds, whether measured


class Memory(dict[K, T], Generic[K, T]):
    """Values that are made when first asked for."""

    def __init__(self, make: Callable[[K], T]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: K) -> T:
        if len(self) >= _KEPT:
            self.clear()
        self[key] = value = self._make(key)
        return value


class Cells:
    """The grid of one curve (`curve.segment`), cell by cell as contexts arrive.

    starts, cells : sorted; the first cell is empty, so that the bisection always lands on one.
    step : tokens by which x grows an iteration.
    """

    __slots__ = ("cells", "curve", "starts", "step")

    def __init__(self, curve: Curve, step: int) -> None:
        self.curve, self.step = curve, step
        self.starts: list[int] = [-1]
        self.cells: list[_Cell] = [(0, 0, 0, 0, True)]

    def around(self, x: int) -> _Cell:
        """The cell around x."""
        cell = self.cells[bisect_right(self.starts, x) - 1]
        return cell if x < cell[0] else self.add(x)

    def add(self, x: int) -> _Cell:
        """The cell around x, made and kept."""
        found = segment(self.curve, x)
        cell = (found.end, found.offset, found.rate, found.rate * self.step, found.measured)
        i = bisect_right(self.starts, found.start)
        self.starts.insert(i, found.start)
        self.cells.insert(i, cell)
        return cell


class Stage:
    """The accelerator time of one pipeline stage: what depends on the tokens, the sequences, each prompt part's context
    and the decodes' contexts is compiled when first met and then looked up.

    ticks = tokens(all tokens) + sequences(requests in the batch) + sum of prefill(tokens, context)
            + together(prompt parts, their tokens) + decode(decodes, sum of contexts) + waits if there are prompt parts
    """

    def __init__(self, operators: StageOperators, times: OperatorTimes, launch: Launch | None = None) -> None:
        self._operators, self._times, self._launch = operators, times, launch or Launch()
        self._queries = max((group.attention.queries for group in operators.layers), default=1)
        once = len(operators.tokens) + len(operators.sequences)
        self._kernels = once + sum(group.count * (len(group.rows) + 1) for group in operators.layers)
        self._waits = ticks(self._kernels * self._launch.gap_seconds_per_kernel)
        self._tokens: Memory[int, _Cost] = Memory(self._compile_tokens)
        self._sequences: Memory[int, _Cost] = Memory(self._compile_sequences)
        self._prefills: Memory[int, Cells] = Memory(self._compile_prefill)
        self._decodes: Memory[int, tuple[Cells, int, int]] = Memory(self._compile_decode)
        self._together: Memory[tuple[int, int], _Cost] = Memory(self._compile_together)

    def piece(
        self, chunks: Sequence[Chunk], decodes: int, context_sum: int, context_min: int, context_max: int
    ) -> Piece:
        """See `StageCost.piece`; the batch holds at least one token.

        Called for every step of a simulation, so the look-up of a cell is written out: a call would double its cost.
        """
        if not chunks:
            cells, base, unmeasured = self._decodes[decodes]
            end, offset, rate, slope, measured = cells.cells[bisect_right(cells.starts, context_sum) - 1]
            if context_sum >= end:
                end, offset, rate, slope, measured = cells.add(context_sum)
            part = offset + rate * context_sum
            valid = (end - 1 - context_sum) // decodes + 1
            return base + part, slope, valid, unmeasured if measured else unmeasured + part
        base, slope, valid, unmeasured, count = self._parts(chunks)
        if decodes:
            count += decodes * self._queries
            cells = self._decodes[decodes][0]
            end, offset, rate, step, measured = cells.cells[bisect_right(cells.starts, context_sum) - 1]
            if context_sum >= end:
                end, offset, rate, step, measured = cells.add(context_sum)
            part = offset + rate * context_sum
            base += part
            slope += step
            if not measured:
                unmeasured += part
            left = (end - 1 - context_sum) // decodes + 1
            if left < valid:
                valid = left
        of_tokens, more = self._tokens[count]
        of_sequences, most = self._sequences[decodes * self._queries + len(chunks)]
        return base + of_tokens + of_sequences + self._waits, slope, valid, unmeasured + more + most

    def _parts(self, chunks: Sequence[Chunk]) -> tuple[int, int, int, int, int]:
        """The piece of the attention of prompt parts, and all their tokens."""
        base = slope = unmeasured = count = 0
        valid = FOREVER
        prefills = self._prefills
        for tokens, context in chunks:
            count += tokens
            cells = prefills[tokens]
            end, offset, rate, step, measured = cells.cells[bisect_right(cells.starts, context) - 1]
            if context >= end:
                end, offset, rate, step, measured = cells.add(context)
            part = offset + rate * context
            base += part
            slope += step
            if not measured:
                unmeasured += part
            left = (end - 1 - context) // tokens + 1
            if left < valid:
                valid = left
        if len(chunks) > 1:
            together, more = self._together[len(chunks), count]
            base += together
            unmeasured += more
        return base, slope, valid, unmeasured, count

    def _rows(self, operators: Iterable[RowOperator | Collective], rows: int) -> Timing:
        seconds = unmeasured = 0.0
        for operator in operators:
            if isinstance(operator, Collective):
                time, outside = self._times.collective(operator, rows)
            else:
                time, outside = self._times.rows(operator, rows)
            seconds += time
            unmeasured += outside
        return seconds, unmeasured

    def _layer(self, group: LayerOperators, rows: int) -> Timing:
        """The operators by rows of one layer; as two microbatches where those overlap and that is faster. Each half
        reads its weights anew, and attention hides nothing."""
        whole = self._rows(group.rows, rows)
        if not group.overlap:
            return whole
        messages = [operator for operator in group.rows if isinstance(operator, Collective)]
        products = [operator for operator in group.rows if not isinstance(operator, Collective)]
        seconds, outside = max(self._rows(part, -(-rows // 2)) for part in (products, messages))
        return min(whole, (2 * seconds, 2 * outside))

    def _compile_tokens(self, tokens: int) -> _Cost:
        return self._token_cost(tokens, prompts=True)

    def _token_cost(self, tokens: int, prompts: bool) -> _Cost:
        padded = self._launch.graph(tokens, prompts) or tokens
        seconds, unmeasured = self._rows(self._operators.tokens, padded)
        for group in self._operators.layers:
            time, outside = self._layer(group, padded)
            call, beyond = self._times.attention(group.attention)
            seconds += group.count * (time + call)
            unmeasured += group.count * (outside + beyond)
        return ticks(seconds), ticks(unmeasured)

    def _compile_sequences(self, sequences: int) -> _Cost:
        seconds, unmeasured = self._rows(self._operators.sequences, sequences)
        return ticks(seconds + sequences * self._launch.gap_seconds_per_sequence), ticks(unmeasured)

    def _compile_prefill(self, tokens: int) -> Cells:
        layers, times = self._operators.layers, self._times
        curves = (times.prefill(g.attention, tokens).times(g.count * g.attention.prefill_factor) for g in layers)
        return Cells(total(curves), tokens)

    def _compile_together(self, key: tuple[int, int]) -> _Cost:
        seconds = unmeasured = 0.0
        for group in self._operators.layers:
            time, outside = self._times.together(group.attention, *key)
            seconds += group.count * time
            unmeasured += group.count * outside
        return ticks(seconds), ticks(unmeasured)

    def _compile_decode(self, decodes: int) -> tuple[Cells, int, int]:
        """The grid of attention, and the rest of an iteration of these decodes alone."""
        cells = Cells(self._decode_curve(decodes), decodes)
        of_tokens, more = self._token_cost(decodes * self._queries, prompts=False)
        of_sequences, most = self._sequences[decodes * self._queries]
        return cells, of_tokens + of_sequences, more + most

    def _decode_curve(self, decodes: int) -> Curve:
        layers, times = self._operators.layers, self._times
        each = ((g.attention, g.count * g.attention.decode_factor) for g in layers)
        return total(times.decode(call, decodes).times(factor) for call, factor in each)
