"""An upper bound on the flow of any placement, without looking at links: a linear program over layer covers.

If a placement carries a flow F, then at every layer the nodes that hold it are together at least as fast as F: they
form a cover. A node of type t that holds k layers appears in k covers, so it spends 1/k of itself on each. Hence

    sum over layers of covers = layers,   nodes of type t spent in all covers <= nodes of type t

has a solution. Column generation decides whether its linear relaxation has one (the covers come from a knapsack), and
bisection on F finds the largest flow that has. It is the cutting-stock bound, and much sharper than the work bound
(sum over nodes of max k x T(k), over the layers), which lets a layer be served by a fraction of a node.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import inf

import numpy as np
from scipy.optimize import linprog

from .instance import Instance

TOLERANCE = 1e-9  # relative, of flows
_MAX_COLUMNS = 400
_BREATH = 4096  # steps between two looks at the clock


@dataclass(frozen=True)
class _Item:
    """A node of type `kind` that holds `layers` layers, as part of a cover."""

    kind: int
    layers: int
    rate: float


def work_bound(instance: Instance) -> float:
    """Tokens/s: the sum over nodes of the largest k x T(k), divided by the layers."""
    work = sum(kind.count * max(k * rate for k, rate in kind.rates.items()) for kind in instance.node_types)
    return work / instance.layers


def cover_bound(instance: Instance, low: float, deadline: float, close: float = 1e-7) -> float:
    """Tokens/s that no placement exceeds; `low` is a flow that one has. Equal to `low` where that is proven optimal.

    deadline : of `time.monotonic`; past it, and within `close` (relative), the bound is valid but not sharper.
    """
    high = work_bound(instance)
    if low and not coverable(instance, low * (1 + TOLERANCE), deadline):
        return low
    while high - low > close * high and time.monotonic() < deadline:
        middle = (low + high) / 2
        if coverable(instance, middle, deadline):
            low = middle
        else:
            high = middle
    return high


def coverable(instance: Instance, flow: float, deadline: float = inf) -> bool:
    """Whether the nodes suffice, in the linear relaxation, to cover every layer at `flow` tokens/s; yes at `deadline`,
    since a bound may only be lowered on proof."""
    try:
        return _coverable(instance, flow, deadline)
    except TimeoutError:
        return True


def _coverable(instance: Instance, flow: float, deadline: float) -> bool:
    items = _items(instance, flow)
    counts = np.array([kind.count for kind in instance.node_types], float)
    cover = _cheapest_cover(items, counts, [1 / item.layers for item in items], flow, deadline)
    if cover is None:
        return False
    columns: list[np.ndarray] = []
    for _ in range(_MAX_COLUMNS):
        columns.append(_spent(items, cover, len(counts)))
        master = linprog(-np.ones(len(columns)), A_ub=np.array(columns).T, b_ub=counts, method="highs")
        if -master.fun >= instance.layers:
            return True
        prices = np.maximum(-master.ineqlin.marginals, 1e-12)
        worth = [prices[item.kind] / item.layers for item in items]
        cover = _cheapest_cover(items, counts, worth, flow, deadline)
        assert cover is not None
        cheapest = sum(worth[i] for i in cover)
        if prices @ counts / cheapest < instance.layers * (1 - 1e-9):  # these prices are a proof
            return False
        if cheapest >= 1 - 1e-9:
            return bool(-master.fun >= instance.layers * (1 - 1e-9))
    return True  # undecided


def _items(instance: Instance, flow: float) -> list[_Item]:
    """The useful ways to hold layers: none where more layers go at least as fast."""
    items = []
    for t, kind in enumerate(instance.node_types):
        fastest = 0.0
        for layers, rate in sorted(kind.rates.items(), reverse=True):
            if min(rate, flow) > fastest:
                fastest = min(rate, flow)
                items.append(_Item(t, layers, fastest))
    return items


def _spent(items: list[_Item], cover: list[int], kinds: int) -> np.ndarray:
    """Nodes by type that a layer under `cover` uses up."""
    spent = np.zeros(kinds)
    for i in cover:
        spent[items[i].kind] += 1 / items[i].layers
    return spent


def _cheapest_cover(
    items: list[_Item], counts: np.ndarray, worth: list[float], flow: float, deadline: float
) -> list[int] | None:
    """Indices of items, with repetition, of least total `worth` that are together as fast as `flow`.

    Depth-first branch and bound, best worth by rate first. None where all nodes together are too slow. Raises
    TimeoutError at `deadline`.
    """
    order = sorted(range(len(items)), key=lambda i: worth[i] / items[i].rate)
    rates, kinds = [items[i].rate for i in order], [items[i].kind for i in order]
    prices = [worth[i] for i in order]
    left = counts.tolist()
    best, chosen = float("inf"), None
    taken: list[int] = []
    steps = 0

    def search(at: int, missing: float, spent: float) -> None:
        nonlocal best, chosen, steps
        steps += 1
        if steps % _BREATH == 0 and time.monotonic() > deadline:
            raise TimeoutError
        if missing <= flow * 1e-12:
            if spent < best:
                best, chosen = spent, taken.copy()
            return
        for q in range(at, len(order)):
            if spent + missing * prices[q] / rates[q] >= best * (1 - 1e-12):
                return
            if left[kinds[q]] >= 1:
                left[kinds[q]] -= 1
                taken.append(order[q])
                search(q, missing - rates[q], spent + prices[q])
                taken.pop()
                left[kinds[q]] += 1

    search(0, flow, 0.0)
    return chosen
