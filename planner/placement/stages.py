"""Placements made of segments in series, each of parallel lanes: the pattern that good placements nearly always have.

A segment covers some layers; a lane is a chain of nodes that together hold them, as fast as its slowest node. For a
wanted flow, column generation finds segments (the cheapest lanes are shortest paths over layers, the cheapest set of
lanes is a knapsack), and a small integer program puts together as many layers as the nodes allow. Bisection on the
flow does the rest. Lanes of one node are the stages of an ordinary pipeline.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import inf
from typing import Any

import numpy as np
from scipy.optimize import linprog

from ...traces.streams import Stream
from ..milp import Program, default_solver, total

_MOST_BLENDS = 60  # of kinds of nodes, by width

Lane = tuple[tuple[int, int], ...]  # (kind, layers held) from the first node to the last


@dataclass(frozen=True)
class Supply:
    """Nodes that are alike: how many, and tokens/s by layers held."""

    count: int
    rates: dict[int, float]


@dataclass(frozen=True)
class Segment:
    """`layers` layers served by parallel lanes of nodes from one group; `rates` is what each of them carries."""

    layers: int
    lanes: tuple[Lane, ...]
    group: int
    rates: tuple[float, ...]

    def used(self) -> Counter[int]:
        """Nodes by kind."""
        return Counter(kind for lane in self.lanes for kind, _ in lane)

    def carries(self, flow: float, width: int = 1) -> bool:
        """Whether the lanes carry `flow` where each may have one part of it in `width`: then slow links can, too."""
        return sum(min(rate, flow / width) for rate in self.rates) >= flow * (1 - 1e-12)


@dataclass(frozen=True)
class Crossing:
    """Slow links from the last segment of one group to the first of the next.

    shapes : how many lanes these two may have, at least, so that the links carry the flow; one of them is chosen.
    """

    tail: int
    head: int
    shapes: tuple[tuple[int, int], ...]


class SegmentPool:
    """Segments found so far, and the choice among those that carry a wanted flow."""

    def __init__(self, supplies: Sequence[Supply], layers: int, groups: Sequence[Sequence[int]]) -> None:
        """groups : kinds of nodes with fast links between them; a segment keeps to one group."""
        self._supplies, self._layers, self._groups = supplies, layers, groups
        self._counts = np.array([supply.count for supply in supplies], float)
        self._columns: dict[Segment, np.ndarray] = {}  # nodes used, by kind
        self._prices = np.ones(len(supplies))

    def generate(self, flow: float, deadline: float, width: int = 1) -> float:
        """Column generation over segments of at least `width` lanes; returns how many layers the relaxation covers."""
        pricings = [_Pricing(self._supplies, *group, self._layers, flow, width) for group in enumerate(self._groups)]
        columns = {segment: used for segment, used in self._columns.items() if segment.carries(flow, width)}
        covered, improved = 0.0, True
        while improved and time.monotonic() < deadline:
            if columns:
                sizes = -np.array([segment.layers for segment in columns], float)
                master = linprog(sizes, A_ub=np.array(list(columns.values())).T, b_ub=self._counts, method="highs")
                self._prices, covered = np.maximum(-master.ineqlin.marginals, 1e-9), -master.fun
            improved = False
            for segment in (found for pricing in pricings for found in pricing.segments(self._prices)):
                used = self._add(segment)
                better = segment not in columns and segment.layers > used @ self._prices * (1 + 1e-9)
                if better or not covered:
                    columns[segment], improved = used, True
        return covered

    def diversify(self, flow: float, deadline: float, stream: Stream, rounds: int) -> None:
        """More segments, nearly as good, from prices that are off by some 30 %: integers need the choice."""
        pricings = [_Pricing(self._supplies, *group, self._layers, flow, 1) for group in enumerate(self._groups)]
        for _ in range(rounds):
            if time.monotonic() > deadline:
                return
            prices = self._prices * np.exp(0.3 * stream.normal(len(self._prices)))
            for pricing in pricings:
                for segment in pricing.segments(prices):
                    self._add(segment)

    def _add(self, segment: Segment) -> np.ndarray:
        used = segment.used()
        return self._columns.setdefault(segment, np.array([used[t] for t in range(len(self._supplies))], float))

    def widen(self, flow: float, crossings: Iterable[Crossing]) -> None:
        """Segments that are wide enough for crossings: the cheapest ones, and all mixtures of kinds."""
        sides = {(g, w) for c in crossings for e, b in c.shapes for g, w in ((c.tail, e), (c.head, b)) if w > 1}
        for group, width in sorted(sides):
            pricing = _Pricing(self._supplies, group, self._groups[group], self._layers, flow, width)
            for segment in [*pricing.segments(self._prices), *pricing.blends()]:
                self._add(segment)

    def choose(
        self, flow: float, deadline: float, crossings: Sequence[Crossing] = (), width: int = 1
    ) -> tuple[list[Segment], list[tuple[int, int]]] | None:
        """Segments, with repetition, of exactly the wanted layers, and a shape for each crossing; None where the nodes
        do not suffice."""
        columns = {s: u for s, u in self._columns.items() if s.carries(flow, width) and (u <= self._counts).all()}
        choice = _Choice(columns, self._counts, flow, crossings)
        choice.program.require(choice.covered <= self._layers, "layers")
        outcome = choice.program.solve(default_solver(), time_limit=min(2.0, deadline - time.monotonic()))
        if outcome.value is None or outcome.value < self._layers - 0.5:
            return None
        return choice.made(outcome.values)


class _Choice:
    """The program that puts together as many layers as the nodes allow, with segments wide enough at the crossings."""

    def __init__(
        self, columns: dict[Segment, np.ndarray], counts: np.ndarray, flow: float, crossings: Sequence[Crossing]
    ) -> None:
        self.program = program = Program("segments", maximize=True)
        self._crossings = crossings
        self._times = times = {s: program.count(f"s{i}", 0) for i, s in enumerate(columns)}
        self.covered = total(segment.layers * n for segment, n in times.items())
        program.aim(self.covered)
        for t, count in enumerate(counts.tolist()):
            spent = total(columns[segment][t] * n for segment, n in times.items() if columns[segment][t])
            program.require(spent <= count, f"nodes{t}")
        wide: dict[tuple[int, int], list[Any]] = {}  # (group, lanes) -> the choices of shapes that need so many
        for i, crossing in enumerate(crossings):
            picks = [program.count(f"c{i}_{j}", 0, 1) for j in range(len(crossing.shapes))]
            program.require(total(picks) == 1, f"crossing{i}")
            for pick, (ends, begins) in zip(picks, crossing.shapes, strict=True):
                wide.setdefault((crossing.tail, ends), []).append(pick)
                wide.setdefault((crossing.head, begins), []).append(pick)
        for group, lanes in wide:
            able = total(n for s, n in times.items() if s.group == group and s.carries(flow, lanes))
            needed = total(pick for (g, w), picks in wide.items() if g == group and w >= lanes for pick in picks)
            program.require(able >= needed, f"wide{group}_{lanes}")

    def made(self, values: dict[str, float]) -> tuple[list[Segment], list[tuple[int, int]]]:
        """The segments and shapes of a solution."""
        shapes = []
        for i, crossing in enumerate(self._crossings):
            picks = [values[f"c{i}_{j}"] for j in range(len(crossing.shapes))]
            shapes.append(crossing.shapes[picks.index(max(picks))])
        return [s for i, s in enumerate(self._times) for _ in range(round(values[f"s{i}"]))], shapes


class _Pricing:
    """Cheapest segments of every length for given prices of nodes."""

    def __init__(
        self, supplies: Sequence[Supply], group: int, kinds: Sequence[int], layers: int, flow: float, width: int,
    ) -> None:  # fmt: skip
        self._supplies = {t: supplies[t] for t in kinds}
        self._group, self._flow, self._most_rate = group, flow, flow / width
        self._width = width
        self._longest = max(k for supply in self._supplies.values() for k in supply.rates)
        self._most = min(layers, 2 * self._longest)
        rates = {min(rate, self._most_rate) for supply in self._supplies.values() for rate in supply.rates.values()}
        self._rates = np.array(sorted(rates, reverse=True))  # what a lane can be as slow as

    def segments(self, prices: np.ndarray) -> list[Segment]:
        """The cheapest segment of each number of layers, where the nodes can form one."""
        cost, step = self._lanes(prices)
        found = []
        for m in range(1, self._most + 1):
            lanes = _cheapest_set(cost[:, m].tolist(), self._rates.tolist(), self._flow)
            if lanes:
                chosen = tuple(sorted(self._lane(step, row, m) for row in lanes))
                rates = tuple(min(self._supplies[t].rates[held] for t, held in lane) for lane in chosen)
                found.append(Segment(m, chosen, self._group, rates))
        return found

    def blends(self) -> list[Segment]:
        """Segments of single nodes, all mixtures of kinds: the cheapest may need a node that another one needs, too."""
        able = {
            t: [held for held, rate in supply.rates.items() if rate >= self._most_rate and held <= self._most]
            for t, supply in self._supplies.items()
        }
        found = []
        for kinds in combinations_with_replacement([t for t, held in able.items() if held], self._width):
            held = max(set.intersection(*(set(able[t]) for t in kinds)), default=0)
            if self._width > 1 and held and all(kinds.count(t) <= self._supplies[t].count for t in set(kinds)):
                rates = tuple(self._supplies[t].rates[held] for t in kinds)
                found.append(Segment(held, tuple(((t, held),) for t in kinds), self._group, rates))
            if len(found) == _MOST_BLENDS:
                break
        return found

    def _lanes(self, prices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cost of the cheapest lane by least rate and layers, and the layers that its last node holds."""
        node = np.full((len(self._rates), self._longest + 1), inf)
        self._kind = np.zeros(node.shape, int)  # the cheapest that holds so much at this rate
        for t, supply in self._supplies.items():
            for held, rate in supply.rates.items():
                better = (self._rates <= min(rate, self._most_rate)) & (node[:, held] > prices[t])
                node[better, held], self._kind[better, held] = prices[t], t
        cost = np.full((len(self._rates), self._most + 1), inf)
        step = np.zeros(cost.shape, int)
        cost[:, 0] = 0.0
        for m in range(1, self._most + 1):
            reach = min(m, self._longest)
            options = node[:, 1 : reach + 1] + cost[:, m - reach : m][:, ::-1]
            step[:, m] = np.argmin(options, axis=1) + 1
            cost[:, m] = options[np.arange(len(options)), step[:, m] - 1]
        return cost, step

    def _lane(self, step: np.ndarray, row: int, layers: int) -> Lane:
        nodes = []
        while layers:
            held = int(step[row, layers])
            nodes.append((int(self._kind[row, held]), held))
            layers -= held
        return tuple(sorted(nodes))


def _cheapest_set(costs: list[float], rates: list[float], flow: float) -> list[int]:
    """Rows, with repetition, of least total cost that are together as fast as `flow`; branch and bound."""
    useful: list[int] = []
    for row, cost in enumerate(costs):  # from the fastest on: a slower lane has to be cheaper
        if cost < (costs[useful[-1]] if useful else inf) * (1 - 1e-12):
            useful.append(row)
    order = sorted(useful, key=lambda r: costs[r] / rates[r])
    best, chosen = inf, []
    taken: list[int] = []

    def search(at: int, missing: float, spent: float) -> None:
        nonlocal best, chosen
        if missing <= flow * 1e-12:
            if spent < best:
                best, chosen = spent, taken.copy()
            return
        for q in range(at, len(order)):
            row = order[q]
            if spent + missing * costs[row] / rates[row] >= best * (1 - 1e-12):
                return
            taken.append(row)
            search(q, missing - rates[row], spent + costs[row])
            taken.pop()

    search(0, flow, 0.0)
    return chosen
