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
from collections.abc import Sequence
from math import inf

import numpy as np
from scipy.optimize import linprog

from .covers import Cover, Item, Pricing, useful_items
from .instance import Instance

TOLERANCE = 1e-9  # relative, of flows
_MAX_COLUMNS = 400


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
    kinds, most = instance.node_types, instance.layers
    items = [item for t, kind in enumerate(kinds) for item in useful_items(kind.rates, most, flow, t)]
    counts = np.array([kind.count for kind in kinds], float)
    pricing, idle = Pricing(items, counts.tolist(), flow), [0.0] * len(items)
    found = pricing.cheapest([1 / item.layers for item in items], idle, deadline)
    if found is None:
        return False
    columns: list[np.ndarray] = []
    for _ in range(_MAX_COLUMNS):
        columns.append(_spent(items, found[1], len(counts)))
        master = linprog(-np.ones(len(columns)), A_ub=np.array(columns).T, b_ub=counts, method="highs")
        if -master.fun >= instance.layers:
            return True
        prices = np.maximum(-master.ineqlin.marginals, 1e-12)
        found = pricing.cheapest([prices[item.kind] / item.layers for item in items], idle, deadline)
        assert found is not None
        if prices @ counts / found[0] < instance.layers * (1 - 1e-9):  # these prices are a proof
            return False
        if found[0] >= 1 - 1e-9:
            return bool(-master.fun >= instance.layers * (1 - 1e-9))
    return True  # undecided


def _spent(items: Sequence[Item], cover: Cover, kinds: int) -> np.ndarray:
    """Nodes by type that a layer under `cover` uses up."""
    spent = np.zeros(kinds)
    for i, _ in cover:
        spent[items[i].kind] += 1 / items[i].layers
    return spent
