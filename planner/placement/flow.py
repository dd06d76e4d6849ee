"""The largest flow of a placement: how many tokens/s get from the source through all layers to the sink."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from .instance import Instance

Range = tuple[int, int]  # first layer and number of layers; (0, 0) for a node that is not used
IDLE: Range = (0, 0)
_NOTHING = 1e-9  # tokens/s that a path must carry to be worth a look


@dataclass(frozen=True)
class Flow:
    """A largest flow. left : residual capacities by tail and head; a node's exit is its number + nodes + 2."""

    value: float
    left: dict[int, dict[int, float]]
    nodes: int

    @cached_property
    def links(self) -> dict[tuple[int, int], float]:
        """Tokens/s by (from, to), node numbers as in `Instance`: what the way back could return."""
        n = self.nodes
        exits = {end - n - 2: end for end in self.left if end >= n + 2} | {n: n}
        return {
            (tail, head): self.left[head][end]
            for tail, end in sorted(exits.items())
            for head in sorted(self.left.get(end, {}))
            if head < n + 2 and head not in (tail, n) and self.left[head][end] > _NOTHING
        }


def largest_flow(instance: Instance, ranges: Sequence[Range]) -> Flow:
    """By Dinic's algorithm in floating point: the value is a sum and difference of the instance's own numbers."""
    n = instance.nodes
    left = _network(instance, ranges)
    value = 0.0
    while levels := _levels(left, n, n + 1):
        edges = {tail: list(heads) for tail, heads in left.items()}
        while (pushed := _push(left, levels, edges, n, n + 1)) > 0:
            value += pushed
    return Flow(value, left, n)


def _network(instance: Instance, ranges: Sequence[Range]) -> dict[int, dict[int, float]]:
    n, capacity, kinds = instance.nodes, instance.links_from, instance.type_of
    source, sink = n, n + 1
    left: dict[int, dict[int, float]] = {source: {}, sink: {}}
    begin: dict[int, list[int]] = {}
    used = [i for i in range(n) if ranges[i][1]]
    for i in used:
        begin.setdefault(ranges[i][0], []).append(i)
        left[i] = {}
        left[i + n + 2] = {}

    def edge(tail: int, head: int, most: float) -> None:
        if most > 0:
            left[tail][head] = most
            left[head][tail] = 0.0

    for i in begin.get(0, ()):
        edge(source, i, capacity[source][i])
    for i in used:
        start, held = ranges[i]
        edge(i, i + n + 2, instance.rate(kinds[i], held))
        if start + held == instance.layers:
            edge(i + n + 2, sink, capacity[i][sink])
        for j in begin.get(start + held, ()):
            edge(i + n + 2, j, capacity[i][j])
    return left


def _levels(left: dict[int, dict[int, float]], source: int, sink: int) -> dict[int, int]:
    """Distance from the source over edges with room, if the sink can be reached."""
    levels, queue = {source: 0}, deque([source])
    while queue:
        tail = queue.popleft()
        for head, room in left[tail].items():
            if room > _NOTHING and head not in levels:
                levels[head] = levels[tail] + 1
                queue.append(head)
    return levels if sink in levels else {}


def _push(
    left: dict[int, dict[int, float]], levels: dict[int, int], edges: dict[int, list[int]], source: int, sink: int
) -> float:
    """Send what one shortest path takes; `edges` forgets the dead ends."""
    path = [source]
    while path[-1] != sink:
        tail = path[-1]
        heads = edges[tail]
        while heads and not (left[tail][heads[-1]] > _NOTHING and levels.get(heads[-1], 0) == levels[tail] + 1):
            heads.pop()
        if heads:
            path.append(heads[-1])
        elif len(path) == 1:
            return 0.0
        else:
            path.pop()
            edges[path[-1]].pop()
    steps = list(pairwise(path))
    amount = min(left[tail][head] for tail, head in steps)
    for tail, head in steps:
        left[tail][head] -= amount
        left[head][tail] += amount
    return amount
