"""Placements made of segments in series, each of parallel lanes: the pattern that good placements nearly always have.

A segment covers some layers; a lane is a chain of nodes that together hold them, as fast as its slowest node. For a
wanted flow, column generation finds segments (the cheapest lanes are shortest paths over layers, the cheapest set of
lanes is a knapsack), and a small integer program puts together as many layers as the nodes allow. Bisection on the
flow does the rest. Lanes of one node are the stages of an ordinary pipeline.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from scipy.optimize import linprog

from ...traces.streams import Stream
from ..milp import Program, default_solver, total

Lane = tuple[tuple[int, int], ...]  # (kind, layers held) from the first node to the last


@dataclass(frozen=True)
class Supply:
    """Nodes that are alike: how many, and tokens/s by layers held."""

    count: int
    rates: dict[int, float]


@dataclass(frozen=True)
class Segment:
    """`layers` layers served by parallel lanes of nodes from one group; `rate` is what they carry together."""

    layers: int
    lanes: tuple[Lane, ...]
    group: int
    rate: float

    def used(self) -> Counter[int]:
        """Nodes by kind."""
        return Counter(kind for lane in self.lanes for kind, _ in lane)


@dataclass(frozen=True)
class Need:
    """At least `number` segments of `group` with at least `width` lanes, so that slow links can carry the flow."""

    group: int
    width: int
    number: int


class SegmentPool:
    """Segments found so far, and the choice among those that carry a wanted flow."""

    def __init__(self, supplies: Sequence[Supply], layers: int, groups: Sequence[Sequence[int]]) -> None:
        """groups : kinds of nodes with fast links between them; a segment keeps to one group."""
        self._supplies, self._layers, self._groups = supplies, layers, groups
        self._counts = np.array([supply.count for supply in supplies], float)
        self._columns: dict[Segment, np.ndarray] = {}  # nodes used, by kind
        self._prices = np.ones(len(supplies))

    def generate(self, flow: float, deadline: float, width: int = 1, chains: bool = True) -> float:
        """Column generation over segments of at least `width` lanes; returns how many layers the relaxation covers.

        chains : lanes may be chains of nodes.
        """
        pricings = [
            _Pricing(self._supplies, *group, self._layers, flow, width, chains) for group in enumerate(self._groups)
        ]
        columns = {segment: used for segment, used in self._columns.items() if _suits(segment, flow, width)}
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
        pricings = [_Pricing(self._supplies, *group, self._layers, flow, 1, True) for group in enumerate(self._groups)]
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

    def choose(self, flow: float, deadline: float, needs: Sequence[Need] = (), width: int = 1) -> list[Segment] | None:
        """Segments, with repetition, of exactly the wanted layers that the nodes suffice for, or None."""
        columns = {s: u for s, u in self._columns.items() if _suits(s, flow, width) and (u <= self._counts).all()}
        program = Program("segments", maximize=True)
        times = {s: program.count(f"s{i}", 0, self._layers // s.layers) for i, s in enumerate(columns)}
        covered = total(segment.layers * n for segment, n in times.items())
        program.aim(covered)
        program.require(covered <= self._layers, "layers")
        for t, supply in enumerate(self._supplies):
            spent = total(columns[segment][t] * n for segment, n in times.items() if columns[segment][t])
            program.require(spent <= supply.count, f"nodes{t}")
        for i, need in enumerate(needs):
            able = (n for s, n in times.items() if s.group == need.group and len(s.lanes) >= need.width)
            program.require(total(able) >= need.number, f"need{i}")
        outcome = program.solve(default_solver(), time_limit=min(2.0, deadline - time.monotonic()))
        if outcome.value is None or outcome.value < self._layers - 0.5:
            return None
        return [segment for i, segment in enumerate(columns) for _ in range(round(outcome.values[f"s{i}"]))]


def _suits(segment: Segment, flow: float, width: int) -> bool:
    return segment.rate >= flow * (1 - 1e-12) and len(segment.lanes) >= width


class _Pricing:
    """Cheapest segments of every length for given prices of nodes."""

    def __init__(
        self, supplies: Sequence[Supply], group: int, kinds: Sequence[int], layers: int, flow: float, width: int,
        chains: bool,
    ) -> None:  # fmt: skip
        self._supplies = {t: supplies[t] for t in kinds}
        self._group, self._flow, self._most_rate, self._chains = group, flow, flow / width, chains
        self._longest = max(k for supply in self._supplies.values() for k in supply.rates)
        self._most = min(layers, 2 * self._longest if chains else self._longest)
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
                rate = sum(min(self._supplies[t].rates[held] for t, held in lane) for lane in chosen)
                found.append(Segment(m, chosen, self._group, rate))
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
            if not self._chains:
                options[:, : reach - 1 if reach == m else reach] = inf
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
