"""Starting points where links bind: nodes in regions with fast links inside, one region after the other.

Inside a region links are faster than the wanted flow. Where the pipeline crosses from one region to the next, `a` last
nodes and `b` first nodes share a x b slow links, so segments at a crossing must be wide enough.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import pairwise, permutations
from math import ceil

import numpy as np

from ...traces.streams import Stream
from .flow import IDLE, Range
from .instance import Instance
from .stages import Crossing, Segment, SegmentPool, Supply

_WIDEST = 10  # lanes at a crossing


def single_file(instance: Instance) -> list[Range]:
    """One node after the other, as many layers on each as the common flow allows: a placement in no time."""
    speeds = sorted({rate for kind in instance.node_types for rate in kind.rates.values()}, reverse=True)
    for flow in speeds:
        ranges, at = [IDLE] * instance.nodes, 0
        for i, t in enumerate(instance.type_of):
            able = [k for k, rate in instance.node_types[t].rates.items() if rate >= flow and at + k <= instance.layers]
            if able:
                ranges[i] = (at, max(able))
                at += max(able)
        if at == instance.layers:
            return ranges
    return [IDLE] * instance.nodes


def find_regions(instance: Instance, nodes: Sequence[int], flow: float) -> list[list[int]]:
    """Those of `nodes` that are joined by links that carry `flow` in both directions."""
    fast = np.minimum(instance.capacity, instance.capacity.T) >= flow
    regions, left = [], set(nodes)
    while left:
        reached = {min(left)}
        edge = set(reached)
        while edge:
            edge = {j for i in edge for j in np.flatnonzero(fast[i]).tolist()} & (left - reached)
            reached |= edge
        regions.append(sorted(reached))
        left -= reached
    return regions


class RegionPlanner:
    """Placements of `instance` for wanted flows, on the nodes of some regions; remembers the segments it has seen."""

    def __init__(self, instance: Instance, regions: Sequence[Sequence[int]], widths: Sequence[int] = (1,)) -> None:
        """widths : of all segments, in lanes, where links bind inside the regions too; one after the other is tried."""
        self._instance, self._regions, self._widths = instance, regions, widths
        self._members: dict[tuple[int, int], list[int]] = {}  # (region, type) -> nodes
        for g, region in enumerate(regions):
            for node in region:
                self._members.setdefault((g, instance.type_of[node]), []).append(node)
        self._kinds = list(self._members)
        supplies = [Supply(len(nodes), instance.node_types[t].rates) for (_, t), nodes in self._members.items()]
        groups = [[i for i, (g, _) in enumerate(self._kinds) if g == region] for region in range(len(regions))]
        self._pool = SegmentPool(supplies, instance.layers, groups)

    def placements(self, flow: float, deadline: float, stream: Stream, rounds: int) -> Iterator[list[Range]]:
        """Placements that carry `flow` if the links do.

        rounds : of extra segments, drawn from `stream`, for the integer program to choose from.
        """
        crossings = {pair: self._crossing(*pair, flow) for pair in permutations(range(len(self._regions)), 2)}
        for width in self._widths:
            if self._pool.generate(flow, deadline, width) < self._instance.layers - 1e-6:
                continue
            self._pool.diversify(flow, deadline, stream, rounds)
            self._pool.widen(flow, crossings.values())
            for order in permutations(range(len(self._regions))):
                passed = [crossings[pair] for pair in pairwise(order)]
                if order[0] > order[-1] or not all(crossing.shapes for crossing in passed):
                    continue  # the same the other way round, or no way at all
                if time.monotonic() > deadline:
                    return
                found = self._pool.choose(flow, deadline, passed, width)
                if found:
                    yield self._place(found[0], flow, order, found[1])

    def _crossing(self, tail: int, head: int, flow: float) -> Crossing:
        """The least numbers of lanes on the two sides that would do."""
        links = self._instance.capacity[np.ix_(self._regions[tail], self._regions[head])]
        pairs = max(1, ceil(flow / max(float(np.median(links)), 1e-9) - 1e-9))
        most = [min(_WIDEST, len(self._regions[side])) for side in (tail, head)]
        shapes = [(ends, ceil(pairs / ends)) for ends in range(1, most[0] + 1)]
        least = {begins: ends for ends, begins in reversed(shapes) if begins <= most[1]}
        return Crossing(tail, head, tuple(sorted((ends, begins) for begins, ends in least.items())))

    def _place(
        self, chosen: list[Segment], flow: float, order: Sequence[int], widths: Sequence[tuple[int, int]]
    ) -> list[Range]:
        free = {key: list(nodes) for key, nodes in self._members.items()}
        ranges = [IDLE] * self._instance.nodes
        at = 0
        for place, group in enumerate(order):
            mine = sorted((s for s in chosen if s.group == group), key=lambda s: len(s.lanes))
            first = _take(mine, flow, widths[place - 1][1]) if place else []
            last = _take(mine, flow, widths[place][0]) if place < len(widths) else []
            for segment in [*first, *mine, *last]:
                for lane in segment.lanes:
                    start = at
                    for kind, held in lane:
                        ranges[free[self._kinds[kind]].pop()] = (start, held)
                        start += held
                at += segment.layers
        return ranges


def _take(segments: list[Segment], flow: float, width: int) -> list[Segment]:
    """The narrowest segment that is wide enough, out of `segments`."""
    able = [segment for segment in segments if segment.carries(flow, width)]
    if able:
        segments.remove(able[0])
    return able[:1]
