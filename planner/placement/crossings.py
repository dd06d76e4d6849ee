"""An upper bound on the flow where links bind: covers of layers, and lanes across slow links, in one linear program.

For a flow F, which is the unit, the program covers as many layers as it can. Its columns are covers (`covers`); they
say how many nodes of each class hold k layers and what flows through them. Flow between classes of nodes, from the
source and to the sink is conserved. Links are looked at by levels: those slower than a limit lead between places, and
what crosses them needs lanes (`lanes`). What flows through a node has entered every set of nodes that the node is in.
Where not all layers can be covered, F is above the flow of every placement.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise, product

import numpy as np

from ..milp import default_solver
from .bound import TOLERANCE
from .covers import Cover, Item, Pricing, useful_items
from .instance import Floats, Instance
from .lanes import lane_prices
from .linear import Cuts, Linear, Terms

_CLOSE = 1e-5  # difference of flows, as a share of the first bound, at which bisection ends
_PROOF = 1e-6  # share of the layers that must be left uncovered
_MOST_LEVELS = 4
_MOST_CLASSES = 12

Set = frozenset[int]  # of classes


def crossing_bound(instance: Instance, low: float, high: float, deadline: float) -> float:
    """Tokens/s that no placement exceeds, `high` at most; `low` is a flow that one has, and the bound where proven.

    `high` itself where `highspy` is not installed.
    """
    if default_solver() != "highs":
        return high
    classes = _classes(instance, high)

    def refuted(flow: float) -> bool:
        try:
            return _Relaxation(instance, classes, flow, deadline).refuted()
        except TimeoutError:
            return False

    if low and refuted(low * (1 + TOLERANCE)):
        return low
    close = _CLOSE * high
    while high - low > close and time.monotonic() < deadline:
        middle = (low + high) / 2
        if refuted(middle):
            high = middle
        else:
            low = middle
    return high


@dataclass(frozen=True)
class _Level:
    """Links of at most `limit` lead between places. place : of every class; empty where each node is one."""

    limit: float
    place: tuple[int, ...]

    def apart(self, a: Iterable[int], b: Iterable[int]) -> bool:
        """Whether no node of the classes `a` shares a place with another one of `b`."""
        return not self.place or not {self.place[i] for i in a} & {self.place[i] for i in b}

    @property
    def places(self) -> list[Set]:
        """The classes in each; none where every node is a place of its own."""
        return [frozenset(a for a, p in enumerate(self.place) if p == own) for own in sorted(set(self.place))]


class _Network:
    """Classes of like nodes, and what is between them, capped at a flow, which is the unit."""

    def __init__(self, instance: Instance, classes: list[list[int]], flow: float) -> None:
        n = instance.nodes
        self.capacity = np.minimum(instance.capacity, flow) / flow
        self.classes = classes
        self.counts = [len(nodes) for nodes in self.classes]
        self.rates = [
            {k: rate / flow for k, rate in instance.node_types[instance.type_of[nodes[0]]].rates.items()}
            for nodes in self.classes
        ]
        self.source = [float(self.capacity[n, nodes].max()) for nodes in self.classes]
        self.sink = [float(self.capacity[nodes, n + 1].max()) for nodes in self.classes]
        self.everything: Set = frozenset(range(len(self.classes)))

    def number(self, some: Set) -> int:
        """Nodes of some classes."""
        return sum(self.counts[a] for a in some)

    @cached_property
    def fastest(self) -> Floats:
        """The largest capacity of a link from one class to another."""
        return self._by_class(np.maximum)

    @cached_property
    def largest(self) -> Floats:
        """What all links from one class to another carry together."""
        return self._by_class(np.add)

    def _by_class(self, combine: np.ufunc) -> Floats:
        order = [node for nodes in self.classes for node in nodes]
        first = np.cumsum([0, *self.counts[:-1]])
        links = self.capacity[np.ix_(order, order)]
        combined: Floats = combine.reduceat(combine.reduceat(links, first, axis=0), first, axis=1)
        return combined

    @cached_property
    def levels(self) -> list[_Level]:
        """From the slowest links on; the same places only once."""
        n = len(self.capacity) - 2
        links = self.capacity[:n, :n]
        limits = np.unique(links[(links > 0) & (links < 1)])
        if len(limits) > _MOST_LEVELS:
            limits = limits[np.linspace(0, len(limits) - 1, _MOST_LEVELS + 1).astype(int)[1:]]
        levels: dict[tuple[int, ...], _Level] = {}
        for limit in limits.tolist():
            place = _places(links > limit)
            by_class = tuple(place[nodes[0]] for nodes in self.classes)
            if len(set(place)) == n:
                levels[()] = _Level(limit, ())
            elif len(set(place)) > 1 and all(
                place[i] == by_class[a] for a, nodes in enumerate(self.classes) for i in nodes
            ):
                levels[by_class] = _Level(limit, by_class)
        return list(levels.values())

    @cached_property
    def sets(self) -> list[Set]:
        """Classes, places, all else than a place, and everything, which comes last."""
        places = {place for level in self.levels for place in level.places}
        sets = {frozenset([a]) for a in self.everything} | places | {self.everything - place for place in places}
        return [*sorted(sets - {self.everything}, key=sorted), self.everything]


def _classes(instance: Instance, most: float) -> list[list[int]]:
    """Nodes of one type whose links are the same, up to `most`: two may swap their places. Else nodes of one type.

    Any classes of nodes of one type would do: what is said of links holds for the fastest, and for all together.
    """
    capacity = np.minimum(instance.capacity, most)
    classes: list[list[int]] = []
    for i, kind in enumerate(instance.type_of):
        for nodes in classes:
            j = nodes[0]
            swap = np.arange(len(capacity))
            swap[[i, j]] = j, i
            if instance.type_of[j] == kind and (capacity[np.ix_(swap, swap)] == capacity).all():
                nodes.append(i)
                break
        else:
            classes.append([i])
    if len(classes) <= _MOST_CLASSES:
        return classes
    return [[i for i, other in enumerate(instance.type_of) if other == t] for t in range(len(instance.node_types))]


def _places(joined: np.ndarray) -> list[int]:
    """The least node that each one is connected with, in either direction."""
    place = list(range(len(joined)))
    for i, j in np.argwhere(joined).tolist():
        a, b = place[i], place[j]
        if a != b:
            place = [min(a, b) if p in (a, b) else p for p in place]
    return place


class _Relaxation:
    """The linear program for one flow, grown by covers and lane inequalities as they are needed.

    Its value is at most twice the layers: those covered, and as much again for the share of the flow that gets through.
    """

    def __init__(self, instance: Instance, classes: list[list[int]], flow: float, deadline: float) -> None:
        self._net = net = _Network(instance, classes, flow)
        self._layers, self._deadline = instance.layers, deadline
        self._items = [
            item for a, rates in enumerate(net.rates) for item in useful_items(rates, instance.layers, 1.0, a)
        ]
        self._pricing = Pricing(self._items, net.counts, 1.0)
        self._seen: set[tuple[tuple[int, float], ...]] = set()
        self._program = program = Linear()
        self._layer_row = program.row([], low=0.0)
        program.column(self._layers, [(self._layer_row, -1.0)], objective=1.0)
        self._through = program.column(1.0, objective=self._layers)
        self._add_nodes()
        self._add_flows()
        self._add_entries()
        self._lanes = Cuts([row for level in net.levels for row in self._lane_rows(level)])

    # -- rows ------------------------------------------------------------------------------------------------------

    def _add_nodes(self) -> None:
        """How many nodes of a class hold k layers, and what flows through them; covers take them up."""
        program = self._program
        self._held = held = [(program.column(), program.column()) for _ in self._items]
        self._holding = [program.row([(n, -item.layers)]) for item, (n, _) in zip(self._items, held, strict=True)]
        self._serving = [program.row([(f, -item.layers)]) for item, (_, f) in zip(self._items, held, strict=True)]
        self._number: list[Terms] = [[] for _ in self._net.classes]
        self._served: list[Terms] = [[] for _ in self._net.classes]
        self._work: list[Terms] = [[] for _ in self._net.classes]
        for item, (count, served) in zip(self._items, held, strict=True):
            self._number[item.kind].append((count, 1.0))
            self._served[item.kind].append((served, 1.0))
            self._work[item.kind].append((served, float(item.layers)))
            program.row([(served, 1.0), (count, -item.rate)])
        for terms, most in zip(self._number, self._net.counts, strict=True):
            program.row(terms, high=most)

    def _add_flows(self) -> None:
        """Flow from the source through the classes to the sink."""
        net, program = self._net, self._program
        self._source, self._first = self._add_ends(net.source)
        self._sink, self._last = self._add_ends(net.sink)
        self._flows: dict[tuple[int, int], int] = {}
        for a in net.everything:
            for b in net.everything:
                if net.largest[a, b]:
                    self._flows[a, b] = program.column(float(net.largest[a, b]))
        for a, served in enumerate(self._served):
            out = [(flow, 1.0) for (tail, _), flow in self._flows.items() if tail == a]
            into = [(flow, 1.0) for (_, head), flow in self._flows.items() if head == a]
            program.row([*_minus(served), *self._sink[a], *out], low=0.0)
            program.row([*_minus(served), *self._source[a], *into], low=0.0)
        for flows in (self._source, self._sink):
            program.row([(self._through, -1.0), *chain(*flows)], low=0.0)

    def _add_ends(self, fastest: Sequence[float]) -> tuple[list[Terms], list[Terms]]:
        """By class, flow from the source or to the sink, and the nodes that it goes through, by their fastest link."""
        flows: list[Terms] = [[] for _ in fastest]
        numbers: list[Terms] = [[] for _ in fastest]
        for item, (held, served) in zip(self._items, self._held, strict=True):
            number, flow = self._program.column(), self._program.column()
            self._program.row([(number, 1.0), (held, -1.0)])
            self._program.row([(flow, 1.0), (served, -1.0)])
            self._program.row([(flow, 1.0), (number, -min(item.rate, fastest[item.kind]))])
            flows[item.kind].append((flow, 1.0))
            numbers[item.kind].append((number, 1.0))
        return flows, numbers

    def _between(self, tails: Set, heads: Set) -> Terms:
        return [(flow, 1.0) for (a, b), flow in self._flows.items() if a in tails and b in heads]

    def _add_entries(self) -> None:
        """Through a node flows no more than enters a set that it is in; its work, too, is bounded by that."""
        net = self._net
        for some in net.sets[:-1]:
            sources = chain(*(self._source[a] for a in sorted(some)))
            entry = self._program.column()
            self._program.row([(entry, -1.0), *sources, *self._between(net.everything - some, some)], low=0.0)
            for a in sorted(some):
                self._program.row([*self._served[a], (entry, -net.counts[a])])
                for slope, constant in _most_work([item for item in self._items if item.kind == a]):
                    self._program.row([*self._work[a], (entry, -net.counts[a] * slope)], high=net.counts[a] * constant)

    def _lane_rows(self, level: _Level) -> Iterator[Terms]:
        """All lane inequalities of a level: terms that are at most 0 together."""
        net, program = self._net, self._program
        ends, begins = ([program.column() for _ in net.classes] for _ in range(2))
        far = {(a, b): flow for (a, b), flow in self._flows.items() if level.apart({a}, {b})}
        for a in net.everything:
            stay = [(flow, 1.0) for pair, flow in self._flows.items() if pair[0] == a and pair not in far]
            come = [(flow, 1.0) for pair, flow in self._flows.items() if pair[1] == a and pair not in far]
            program.row([*stay, *self._last[a], *_minus(self._number[a]), (ends[a], 1.0)])
            program.row([*come, *self._first[a], *_minus(self._number[a]), (begins[a], 1.0)])
        for tails, heads in product(net.sets, repeat=2):
            looped = bool(level.place) and tails == heads == net.everything
            flows = [(flow, 1.0) for (a, b), flow in far.items() if a in tails and b in heads]
            if not flows or not (looped or level.apart(tails, heads)):
                continue
            fastest = level.limit if looped else float(net.fastest[np.ix_(sorted(tails), sorted(heads))].max())
            mixed = bool(level.place)
            for p, q in lane_prices(fastest, net.number(tails), net.number(heads), mixed=mixed, looped=looped):
                yield [*flows, *((ends[a], -p) for a in tails), *((begins[b], -q) for b in heads)]

    # -- solving ---------------------------------------------------------------------------------------------------

    def refuted(self) -> bool:
        """Whether it is proven that the program cannot cover all layers. Column and row generation."""
        full, margin = 2 * self._layers, _PROOF * self._layers
        while True:
            if time.monotonic() > self._deadline:
                raise TimeoutError
            solved = self._program.solve()
            if solved is None:
                return False  # the solver gave up: nothing covered is always a solution
            if solved.value >= full - margin:
                if not self._lanes.add_violated(self._program, solved.columns):
                    return False
                continue
            prices = solved.duals
            fixed, rated = (np.maximum(prices[rows], 0.0).tolist() for rows in (self._holding, self._serving))
            found = self._pricing.cheapest(fixed, rated, self._deadline)
            if found is None:
                return True
            gain = -prices[self._layer_row] - found[0]  # for each layer that is covered so
            if solved.value + self._layers * max(gain, 0.0) < full - margin:
                return True
            if gain < margin * 1e-3 / self._layers or not self._add_cover(found[1]):
                return False

    def _add_cover(self, cover: Cover) -> bool:
        """A new column; False where it is there already, and only rounding has made it look better."""
        held, flows = Counter(at for at, _ in cover), dict.fromkeys((at for at, _ in cover), 0.0)
        for at, flow in cover:
            flows[at] += flow
        if (key := tuple(sorted(flows.items()))) in self._seen:
            return False
        self._seen.add(key)
        terms = [(self._layer_row, 1.0)]
        terms += [(self._holding[at], float(number)) for at, number in held.items()]
        terms += [(self._serving[at], flow) for at, flow in flows.items()]
        self._program.column(terms=terms)
        return True


def _minus(terms: Terms) -> Terms:
    return [(at, -factor) for at, factor in terms]


def _most_work(items: Sequence[Item]) -> list[tuple[float, float]]:
    """Lines (slope, constant) above the most layers x flow of a node through which a given flow may pass."""
    corners = [(0.0, 0.0)]
    for item in items:  # from many layers to few, from slow to fast
        x, y = item.rate, item.layers * item.rate
        if y <= corners[-1][1]:
            continue
        while len(corners) > 1 and _above(corners[-2], (x, y), corners[-1]):
            corners.pop()
        corners.append((x, y))
    slopes = [((v - y) / (u - x), (x, y)) for (x, y), (u, v) in pairwise(corners)]
    return [(slope, y - slope * x) for slope, (x, y) in slopes]


def _above(a: tuple[float, float], c: tuple[float, float], b: tuple[float, float]) -> bool:
    """Whether the line from `a` to `c` is at or above `b`."""
    return (c[1] - a[1]) * (b[0] - a[0]) >= (b[1] - a[1]) * (c[0] - a[0])
