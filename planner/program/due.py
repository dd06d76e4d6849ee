"""Work that is due: stretches of a trace in which most of its own requests must be served, whatever a fleet does.

Who arrives in a stretch and must be done before it ends takes its work within it, as in the feasibility test of
earliest deadline first (Baruah et al., 1990). Disjoint stretches count together, and the requests that may miss are
taken off them once: those with the most work. So bursts count as much as they come, at every length of time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...traces.columns import Floats, Ints
from ...traces.table import RequestTable

_POINTS = 600  # between which stretches lie: as many requests, or deadlines, between one and the next
_STEPS, _STEP = 20, 1.1  # at most so many times a rate, each at least so much higher than the last


@dataclass(frozen=True)
class Stretches:
    """rows : which requests must be served within. number, seconds : of the stretches, together."""

    rows: NDArray[np.bool_]
    number: int
    seconds: float


@dataclass(frozen=True)
class Times:
    """earliest : when each request is sent at best, seconds. latest : when it must have ended, if nothing misses.

    group : of requests that are late together, where one of them misses.
    """

    earliest: Floats
    latest: Floats
    group: Ints


def times(table: RequestTable, limits: Floats) -> Times:
    """When requests may come and must be done, each in at most `limits` seconds.

    A program's next request comes after the last one's end: all of it may be as late as the limits allow.
    """
    if table.programs is None:
        return Times(table.arrival, table.arrival + limits, np.arange(len(table)))
    earliest, latest = table.arrival.copy(), table.arrival + limits
    for row in np.flatnonzero(np.diff(table.programs.parents.offsets)).tolist():  # parents come first
        parents, gap = table.programs.parents.row(row), table.programs.gap[row]
        earliest[row] = earliest[parents].max() + gap
        latest[row] = latest[parents].max() + gap + limits[row]
    assert table.session is not None
    return Times(earliest, latest, table.session.codes.astype(np.int64))


def stretches(when: Times, weight: Floats, most: int) -> Stretches:
    """Those that ask for the most weight a second, without the heaviest `most` groups of requests."""
    grid, first, last = _grid(when)
    amount = np.zeros((len(grid) + 1, len(grid) + 1))
    np.add.at(amount, (first, last), weight)
    amount = np.cumsum(np.cumsum(amount[::-1], axis=0)[::-1], axis=1)[:-1, :-1]  # from a point on, due by another
    best, highest, rate = Stretches(np.zeros(len(weight), bool), 0, 1.0), 0.0, 0.0
    for _ in range(_STEPS):
        chosen = _beyond(amount, grid, rate)
        if not chosen:
            break
        rows = np.any([(first >= a) & (last <= b) for a, b in chosen], axis=0)
        seconds = float(sum(grid[b] - grid[a] for a, b in chosen))
        found = without_most(weight, rows, when.group, most) / seconds
        if found > highest:
            best, highest = Stretches(rows, len(chosen), seconds), found
        rate = max(found, _STEP * rate)  # who is denser than that exceeds it (Dinkelbach, 1967)
    return best


def without_most(weight: Floats, rows: NDArray[np.bool_], group: Ints, most: int) -> float:
    """The weight of some rows less that of the heaviest groups."""
    each = np.sort(np.bincount(group[rows], weight[rows]))
    return float(each[: max(0, len(each) - most)].sum())


def _grid(when: Times) -> tuple[Floats, Ints, Ints]:
    """Points in time; of each request the last point before it comes, and the first by which it must be done."""
    shares = np.linspace(0, 1, _POINTS // 2)
    arrivals = np.quantile(when.earliest, shares, method="inverted_cdf")
    grid = np.unique(np.concatenate([arrivals, np.quantile(when.latest, shares, method="inverted_cdf")]))
    return grid, np.searchsorted(grid, when.earliest, side="right") - 1, np.searchsorted(grid, when.latest)


def _beyond(amount: Floats, grid: Floats, rate: float) -> Sequence[tuple[int, int]]:
    """The disjoint stretches, as pairs of points, whose amounts exceed `rate` by most in all (dynamic programming)."""
    more = amount - rate * (grid[None, :] - grid[:, None])
    best, begins = np.zeros(len(grid)), np.full(len(grid), -1)
    for end in range(1, len(grid)):
        through = best[:end] + more[:end, end]
        begin = int(np.argmax(through))
        best[end] = max(best[end - 1], through[begin])
        begins[end] = begin if through[begin] > best[end - 1] else -1
    found, at = [], len(grid) - 1
    while at > 0:
        if begins[at] >= 0:
            found.append((int(begins[at]), at))
            at = int(begins[at])
        else:
            at -= 1
    return found[::-1]
