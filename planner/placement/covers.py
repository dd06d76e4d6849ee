"""Covers: nodes that together carry the whole flow through one layer, and the cheapest of them for given prices."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

_BREATH = 4096  # steps between two looks at the clock
_EQUAL = 1e-12  # of prices, and of flows as shares of the whole


@dataclass(frozen=True)
class Item:
    """A node of class `kind` that holds `layers` layers at `rate`."""

    kind: int
    layers: int
    rate: float


Cover = list[tuple[int, float]]  # (item, what flows through it), with repetition


def useful_items(rates: dict[int, float], most: int, flow: float, kind: int) -> list[Item]:
    """The ways to hold up to `most` layers that are worth a look at `flow`: none where more layers go at least as fast.

    Such a node may stand in for one with fewer layers, where layers may be served more often than needed.
    """
    items, fastest = [], 0.0
    for layers, rate in sorted(rates.items(), reverse=True):
        if layers <= most and min(rate, flow) > fastest:
            fastest = min(rate, flow)
            items.append(Item(kind, layers, fastest))
    return items


class Pricing:
    """Cheapest covers for a flow, by depth-first branch and bound, best price by rate first."""

    def __init__(self, items: Sequence[Item], counts: Sequence[float], flow: float) -> None:
        """counts : nodes by class."""
        self._items, self._counts, self._flow = items, counts, flow

    def cheapest(
        self,
        fixed: Sequence[float],
        rated: Sequence[float],
        deadline: float = inf,
    ) -> tuple[float, Cover] | None:
        """The least sum of fixed price + rated price x flow over the items of a cover, and that cover.

        At most one item is not used to the full: with two, flow could move to the one with the lower rated price.
        fixed : 0 or more. None where all nodes together are too slow. Raises TimeoutError at `deadline`.
        """
        items, flow = self._items, self._flow
        order = sorted(range(len(items)), key=lambda i: fixed[i] / items[i].rate + rated[i])
        kinds, rates = [items[i].kind for i in order], [items[i].rate for i in order]
        fixes, slopes = [fixed[i] for i in order], [rated[i] for i in order]
        ratios = [fixes[q] / rates[q] + slopes[q] for q in range(len(order))]
        sloped = any(slopes)  # else it does not matter which item is not used to the full
        left = list(self._counts)
        best, chosen = inf, list[tuple[int, float]]()
        taken: list[int] = []
        steps = 0

        def close(last: int, missing: float, spent: float) -> None:
            nonlocal best, chosen
            spent += fixes[last] + slopes[last] * missing
            if spent < best:
                best, chosen = spent, [(q, rates[q]) for q in taken] + [(last, missing)]

        def search(at: int, missing: float, spent: float) -> None:
            nonlocal steps
            steps += 1
            if steps % _BREATH == 0 and time.monotonic() > deadline:
                raise TimeoutError
            slack = _EQUAL * flow
            for q in range(0 if sloped else at, len(order)):
                if spent + missing * ratios[q] >= best - _EQUAL:
                    break
                if left[kinds[q]] >= 1 and rates[q] >= missing - slack:
                    close(q, missing, spent)
            for q in range(at, len(order)):
                if spent + missing * ratios[q] >= best - _EQUAL:
                    return
                if left[kinds[q]] >= 1 and rates[q] < missing - slack:
                    left[kinds[q]] -= 1
                    taken.append(q)
                    search(q, missing - rates[q], spent + fixes[q] + slopes[q] * rates[q])
                    taken.pop()
                    left[kinds[q]] += 1

        search(0, flow, 0.0)
        return (best, [(order[q], used) for q, used in chosen]) if chosen else None
