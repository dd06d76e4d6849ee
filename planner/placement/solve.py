"""The best placement that a time limit allows, with a bound: constructions, local search, and proofs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from ...errors import InputError
from ...traces.streams import Stream
from ..milp import relative_gap
from .bound import TOLERANCE, cover_bound
from .chains import parallel_chains
from .crossings import crossing_bound
from .exact import solve_exactly, worth_solving
from .flow import IDLE, Range, largest_flow
from .instance import Instance
from .local import LocalSearch
from .regions import RegionPlanner, find_regions, single_file

_MOST_REGIONS = 4
_MOST_LANES = 4  # of all segments, where links are slow everywhere
_FIRST = 0.9  # share of the bound that is tried first
_CLOSE = 1e-5  # relative difference of flows at which bisection ends


@dataclass(frozen=True)
class Placed:
    """ranges : first layer and number of layers by node, (0, 0) where idle. links : tokens/s by (from, to)."""

    instance: Instance
    ranges: list[Range]
    value: float
    bound: float
    seconds: float
    links: dict[tuple[int, int], float]

    @property
    def gap(self) -> float | None:
        """None where nothing flows, and something might."""
        return relative_gap(self.value, self.bound) if self.value or not self.bound else None


def place(instance: Instance, time_limit: float = 4.0, seed: int = 0) -> Placed:
    """Search for `time_limit` seconds at most, less where the optimum is proven.

    Raises InputError where the nodes cannot hold all layers, with the count.
    """
    _check_room(instance)
    return _Search(instance, time_limit, seed).run()


def _check_room(instance: Instance) -> None:
    if _room(instance) < instance.layers:
        found = f"the {instance.nodes} nodes hold {_room(instance)} layers at most"
        raise InputError(f"{instance.name}.layers", found, f"room for {instance.layers}: more or larger nodes")


def _room(instance: Instance) -> int:
    """Layers that the nodes hold together at most; a node that holds more than there are, or nothing, holds none."""
    most = instance.layers
    return sum(kind.count * max((k for k in kind.rates if k <= most), default=0) for kind in instance.node_types)


class _Search:
    def __init__(self, instance: Instance, time_limit: float, seed: int) -> None:
        self._instance = instance
        self._started = time.monotonic()
        self._limit = time_limit
        self._local = LocalSearch(instance, seed)
        self._stream = Stream(seed, f"segments {instance.name}")
        self._best: list[Range] = [IDLE] * instance.nodes
        self._value = 0.0
        self._bound = 0.0
        self._planners: dict[Any, RegionPlanner] = {}

    def run(self) -> Placed:
        self._bound = cover_bound(self._instance, 0.0, self._at(0.25), close=1e-4)
        self._offer(single_file(self._instance))
        if self._instance.links_bind:
            self._offer(parallel_chains(self._instance, self._at(0.35)))
        small = worth_solving(self._instance)
        self._bisect(range(self._instance.nodes), self._at(0.1 if small else 0.5))
        if self._instance.links_bind:
            self._combine_regions(self._at(0.2 if small else 0.6))
            self._bound = crossing_bound(self._instance, self._value, self._bound, self._at(0.8))
        self._prove(self._at(0.8))
        if small and not self._done():
            self._solve_exactly(self._at(0.8))
        self._polish()
        self._prove(self._at(1.0))
        flow = largest_flow(self._instance, self._best)
        seconds = time.monotonic() - self._started
        return Placed(self._instance, self._best, flow.value, max(self._bound, flow.value), seconds, flow.links)

    def _at(self, share: float) -> float:
        """The moment when `share` of the time is used up."""
        return self._started + share * self._limit

    def _done(self) -> bool:
        return self._value >= self._bound * (1 - 2 * TOLERANCE)

    def _offer(self, ranges: list[Range]) -> float:
        value = largest_flow(self._instance, ranges).value
        if value > self._value:
            self._best, self._value = ranges, value
        return value

    def _bisect(
        self, nodes: Sequence[int], deadline: float, rounds: int = 0, low: float = 0.0, high: float = 0.0
    ) -> list[Range]:
        """The series of segments on `nodes` for the largest flow from `low` to `high` (else the bound) that works."""
        high, best = high or self._bound, [IDLE] * self._instance.nodes
        wanted = max(low, _FIRST * high)  # an answer early on, then the top, then what lies between
        top = high * (1 - TOLERANCE)
        while high - low > _CLOSE * max(high, self._bound) and (now := time.monotonic()) < deadline:
            reached = 0.0
            for ranges in self._planner(nodes, wanted).placements(
                wanted, now + (deadline - now) / 2, self._stream, rounds
            ):
                value = self._offer(ranges)
                if value > max(reached, low):
                    best = ranges
                reached = max(reached, value)
                if reached >= wanted * (1 - TOLERANCE):
                    break
            low = max(low, reached)
            high = high if reached >= wanted * (1 - TOLERANCE) else wanted
            wanted, top = (top if top and low else (low + high) / 2), 0.0
        return best

    def _planner(self, nodes: Sequence[int], wanted: float) -> RegionPlanner:
        regions, widths = self._regions(nodes, wanted)
        key = (widths, *map(tuple, regions))
        if key not in self._planners:
            self._planners[key] = RegionPlanner(self._instance, regions, widths)
        return self._planners[key]

    def _regions(self, nodes: Sequence[int], flow: float) -> tuple[list[list[int]], tuple[int, ...]]:
        """A few regions whose links carry `flow` in so many lanes; else all nodes as one, and several widths to try."""
        for width in range(1, _MOST_LANES + 1):
            regions = find_regions(self._instance, nodes, flow / width)
            if len(regions) <= _MOST_REGIONS:
                return regions, (width,)
        return [sorted(nodes)], tuple(range(_MOST_LANES, 0, -1))

    def _combine_regions(self, deadline: float) -> None:
        """Separate pipelines, each on some of the regions, where slow links part them."""
        regions, _ = self._regions(range(self._instance.nodes), self._bound)
        if len(regions) == 1:
            return
        parts = [frozenset(p) for size in range(1, len(regions)) for p in combinations(range(len(regions)), size)]
        most = {part: self._most(part, regions, deadline) for part in parts}
        alone: dict[frozenset[int], list[Range]] = {}
        for split in _partitions(list(range(len(regions)))):
            if len(split) == 1 or sum(most[part] for part in split) <= self._value * (1 + _CLOSE):
                continue
            for part in (part for part in split if most[part] and part not in alone):
                alone[part] = self._bisect([i for r in part for i in regions[r]], deadline, high=most[part])
            self._offer([max(each) for each in zip(*(alone[part] for part in split if part in alone), strict=True)])

    def _most(self, part: frozenset[int], regions: Sequence[Sequence[int]], deadline: float) -> float:
        """A bound on the flow of a pipeline on some regions; 0 where they have no room for all layers."""
        counts = Counter(self._instance.type_of[i] for r in part for i in regions[r])
        kinds = tuple(replace(self._instance.node_types[t], count=n) for t, n in sorted(counts.items()))
        some = Instance(self._instance.name, self._instance.layers, kinds)
        return cover_bound(some, 0.0, deadline, close=1e-3) if _room(some) >= some.layers else 0.0

    def _prove(self, deadline: float) -> None:
        """Lower the bound, to the value if it can be."""
        if not self._done():
            self._bound = min(self._bound, cover_bound(self._instance, self._value, deadline))

    def _solve_exactly(self, deadline: float) -> None:
        outcome, ranges = solve_exactly(self._instance, self._value, self._bound, deadline - time.monotonic())
        if ranges:
            self._offer(ranges)
        if outcome.status == "optimal":
            self._bound = self._value
        elif outcome.bound is not None:
            self._bound = min(self._bound, max(outcome.bound, self._value))

    def _polish(self) -> None:
        """Use what time is left: local search where links bind, more segments where they do not."""
        rounds = 0 if self._instance.links_bind else 10
        while not self._done() and (now := time.monotonic()) < self._at(1.0):
            half = (now + self._at(1.0)) / 2
            if self._instance.links_bind:
                self._offer(self._local.improve(self._best, half, self._bound)[0])
            self._bisect(range(self._instance.nodes), max(half, now + 0.2), rounds, self._value)
            rounds = 3 * rounds + 3


def _partitions(items: list[int]) -> list[list[frozenset[int]]]:
    """Every way to part `items` into sets."""
    if not items:
        return [[]]
    first, rest = items[0], items[1:]
    return [
        [frozenset((first, *some)), *parts]
        for size in range(len(rest) + 1)
        for some in combinations(rest, size)
        for parts in _partitions([item for item in rest if item not in some])
    ]
