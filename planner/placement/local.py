"""Local search over placements: small changes of ranges, judged by the exact network flow, links and all.

Simulated annealing (Kirkpatrick et al., 1983) with restarts from the best. Deterministic for a number of steps; the
clock only decides how many there are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import log

import numpy as np

from ...traces.streams import Stream
from .flow import IDLE, Range, largest_flow
from .instance import Floats, Instance

_HOT, _COLD = 0.03, 0.0005  # temperatures, in shares of the best flow
_COOLING = 600  # steps from hot to cold, then again
_SLACK = 0.02  # weight of speed beyond the flow: it tells equal flows apart


class LocalSearch:
    """Improves placements of one instance."""

    def __init__(self, instance: Instance, seed: int = 0) -> None:
        self.instance = instance
        self._stream = Stream(seed, f"placement {instance.name}")
        self._type_of = instance.type_of
        self._moves: tuple[Callable[[list[Range]], list[Range] | None], ...] = (
            self._join, self._swap, self._shift, self._shift, self._split, self._fill, self._exchange, self._move_end,
        )  # fmt: skip

    def improve(self, start: Sequence[Range], deadline: float, target: float) -> tuple[list[Range], float]:
        """The best placement found until `deadline` (of `time.monotonic`) or a flow of `target`, and its flow."""
        now = list(start)
        flow = largest_flow(self.instance, now).value
        best, best_flow, score = now, flow, self._score(self._rates(now), flow)
        step = 0
        while best_flow < target and time.monotonic() < deadline:
            heat = _HOT * (_COLD / _HOT) ** (step % _COOLING / _COOLING) * max(best_flow, 1e-9)
            step += 1
            if not step % _COOLING:
                now, score = best, self._score(self._rates(best), best_flow)
            tried = self._moves[self._stream.below(len(self._moves))](now)
            if tried is None or tried == now:
                continue
            rates = self._rates(tried)
            needed = score + heat * log(self._stream.next() + 1e-12)
            if self._score(rates, float(rates.min())) <= needed:
                continue  # even with links without limit
            flow = largest_flow(self.instance, tried).value
            tried_score = self._score(rates, flow)
            if tried_score > needed:
                now, score = tried, tried_score
                if flow > best_flow * (1 + 1e-9):
                    best, best_flow = tried, flow
        self.steps = step
        return best, best_flow

    def _rates(self, ranges: list[Range]) -> Floats:
        """Tokens/s that the nodes of each layer serve together."""
        steps = [0.0] * (self.instance.layers + 1)
        for i, (start, held) in enumerate(ranges):
            if held:
                rate = self.instance.rate(self._type_of[i], held)
                steps[start] += rate
                steps[start + held] -= rate
        return np.cumsum(steps[:-1])

    def _score(self, rates: Floats, flow: float) -> float:
        """The flow, and a little for what the layers could serve beyond it; grows with the flow."""
        return flow + _SLACK * (float(np.minimum(rates, 1.5 * flow + 1).mean()) - flow)

    # -- moves: a new placement, or None where the draw makes none ------------------------------------------------

    def _node(self) -> int:
        return self._stream.below(self.instance.nodes)

    def _holds(self, node: int, held: int) -> bool:
        return self.instance.rate(self._type_of[node], held) > 0

    def _with(self, now: list[Range], changes: dict[int, Range]) -> list[Range] | None:
        """`now` with some ranges changed, if those nodes can hold them."""
        tried = now.copy()
        for node, (start, held) in changes.items():
            if held and not (self._holds(node, held) and 0 <= start <= self.instance.layers - held):
                return None
            tried[node] = (start, held) if held else IDLE
        return tried

    def _join(self, now: list[Range]) -> list[Range] | None:
        """A node takes the range of another one."""
        return self._with(now, {self._node(): now[self._node()]})

    def _swap(self, now: list[Range]) -> list[Range] | None:
        """Two nodes swap their ranges."""
        i, j = self._node(), self._node()
        return self._with(now, {i: now[j], j: now[i]})

    def _borders(self, now: list[Range]) -> list[int]:
        return sorted({start for start, held in now if held} | {start + held for start, held in now if held})

    def _shift(self, now: list[Range]) -> list[Range] | None:
        """A border moves, with every range that begins or ends there; who cannot follow drops out."""
        inner = [b for b in self._borders(now) if 0 < b < self.instance.layers]
        if not inner:
            return None
        border = inner[self._stream.below(len(inner))]
        by = (1 + self._stream.below(3)) * (1 if self._stream.below(2) else -1)
        tried = now.copy()
        for node, (start, held) in enumerate(now):
            if held and start == border:
                start, held = start + by, held - by
            elif held and start + held == border:
                held += by
            else:
                continue
            fits = held > 0 and start >= 0 and start + held <= self.instance.layers and self._holds(node, held)
            tried[node] = (start, held) if fits else IDLE
        return tried

    def _move_end(self, now: list[Range]) -> list[Range] | None:
        """One end of one range moves to another border."""
        node, borders = self._node(), self._borders(now)
        start, held = now[node]
        if not held:
            return None
        to = borders[self._stream.below(len(borders))]
        changed = (to, start + held - to) if self._stream.below(2) else (start, to - start)
        return self._with(now, {node: changed}) if changed[1] > 0 else None

    def _split(self, now: list[Range]) -> list[Range] | None:
        """A node gives the second part of its range to another one."""
        i, j = self._node(), self._node()
        start, held = now[i]
        if held < 2 or i == j:
            return None
        kept = 1 + self._stream.below(held - 1)
        return self._with(now, {i: (start, kept), j: (start + kept, held - kept)})

    def _fill(self, now: list[Range]) -> list[Range] | None:
        """A node takes a range between two borders."""
        borders = self._borders(now) or [0, self.instance.layers]
        a, b = borders[self._stream.below(len(borders))], borders[self._stream.below(len(borders))]
        return self._with(now, {self._node(): (min(a, b), abs(a - b))}) if a != b else None

    def _exchange(self, now: list[Range]) -> list[Range] | None:
        """Two neighbouring stretches between borders change places."""
        borders = self._borders(now)
        if len(borders) < 3:
            return None
        at = self._stream.below(len(borders) - 2)
        left, middle, right = borders[at : at + 3]
        moved = {}
        for node, (start, held) in enumerate(now):
            if held and left <= start and start + held <= right:
                moved[node] = (start + right - middle if start < middle else start - (middle - left), held)
        return self._with(now, moved)
