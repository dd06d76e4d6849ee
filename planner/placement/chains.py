"""Starting points where links are missing or slow: chains of nodes along links, and several of them side by side."""

from __future__ import annotations

import time
from collections.abc import Iterable

from .flow import IDLE, Range
from .instance import Instance

_EXPANSIONS = 40000  # nodes x nodes x width of the beam


def parallel_chains(instance: Instance, deadline: float) -> list[Range]:
    """The chain that carries the most, then the next one on the nodes that are left, until there is none."""
    ranges = [IDLE] * instance.nodes
    free = set(range(instance.nodes))
    while free and time.monotonic() < deadline:
        found = _widest(instance, free, deadline)
        if not found:
            break
        for node, where in found.items():
            ranges[node] = where
        free -= found.keys()
    return ranges


def _widest(instance: Instance, free: Iterable[int], deadline: float) -> dict[int, Range]:
    """A chain for the largest flow at which the beam finds one, by bisection over the speeds of nodes and links."""
    rates = {rate for i in free for rate in instance.node_types[instance.type_of[i]].rates.values()}
    links = {link for row in instance.links_from for link in row if 0 < link <= max(rates)}
    speeds, best = sorted(rates | links), dict[int, Range]()
    low, high = 0, len(speeds)
    while low < high and time.monotonic() < deadline:
        middle = (low + high) // 2
        found = _chain(instance, free, speeds[middle])
        low, high, best = (middle + 1, high, found) if found else (low, middle, best)
    return best


def _chain(instance: Instance, free: Iterable[int], flow: float) -> dict[int, Range]:
    """Nodes one after the other that hold all layers at `flow`, over links as fast; those that got furthest go on."""
    n, layers, links = instance.nodes, instance.layers, instance.links_from
    holds = {}
    for i in free:
        able = [k for k, rate in instance.node_types[instance.type_of[i]].rates.items() if rate >= flow and k <= layers]
        if able:
            holds[i] = max(able)
    after = {i: [j for j in holds if j != i and links[i][j] >= flow] for i in holds}
    beam: list[tuple[int, tuple[int, ...]]] = [(held, (i,)) for i, held in holds.items() if links[n][i] >= flow]
    while beam:
        ended = [path for covered, path in beam if covered >= layers and links[path[-1]][n + 1] >= flow]
        if ended:
            return _ranges(instance, ended[0], holds, flow)
        longer = [(c + holds[j], (*path, j)) for c, path in beam for j in after[path[-1]] if j not in path]
        longer.sort(key=lambda state: (-state[0], -len(after[state[1][-1]]), state[1]))
        beam = longer[: max(4, _EXPANSIONS // n**2)]
    return {}


def _ranges(instance: Instance, path: tuple[int, ...], holds: dict[int, int], flow: float) -> dict[int, Range]:
    """As many layers as each node can hold, the last ones what is left; nothing where that does not fit."""
    ranges, at = {}, 0
    for step, node in enumerate(path):
        left = instance.layers - at
        able = [
            k for k, rate in instance.node_types[instance.type_of[node]].rates.items()
            if rate >= flow and k <= left - (len(path) - 1 - step)
        ]  # fmt: skip
        if step == len(path) - 1:
            able = [k for k in able if k == left]
        if not able:
            return {}
        ranges[node] = (at, max(able))
        at += max(able)
    return ranges
