"""A figure of each replica that can only fall until there is news of the replica, as free memory does while it leaps.

What was found last is then a bound from above: to find the greatest, few are computed anew. A pass over the replicas
costs a comparison each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import compress
from math import inf
from operator import ne

from ..core import Load, ReplicaView


class News:
    """Tells of which replicas there is news since it was last asked."""

    def __init__(self) -> None:
        self._views: Sequence[ReplicaView] | None = None
        self._known: list[int | None] = []

    def since(self, views: Sequence[ReplicaView]) -> Sequence[int]:
        """Positions in `views`; all of them if it is another list, or if somebody does not tell."""
        before, self._known = self._known, [view.news for view in views]
        if views is not self._views or None in self._known:
            self._views = views
            return range(len(views))
        return list(compress(range(len(views)), map(ne, self._known, before)))


class Falling:
    """figure : of one replica and its load."""

    def __init__(self, figure: Callable[[ReplicaView, Load], float]) -> None:
        self._figure = figure
        self._news = News()
        self._bounds: list[float] = []

    def greatest(self, views: Sequence[ReplicaView]) -> int:
        """Position of the replica with the greatest figure, the first of equal ones."""
        self._look(views)
        return self._best(self._bounds, views)

    def above(self, least: float, views: Sequence[ReplicaView]) -> Iterator[int]:
        """Positions of those whose figure is greater than `least`, the greatest first."""
        self._look(views)
        bounds = self._bounds.copy()
        while bounds[best := self._best(bounds, views)] > least:
            self._bounds[best] = bounds[best]
            yield best
            bounds[best] = -inf

    def _look(self, views: Sequence[ReplicaView]) -> None:
        changed = self._news.since(views)
        if len(self._bounds) != len(views):
            self._bounds = [inf] * len(views)
        for i in changed:
            self._bounds[i] = self._figure(views[i], views[i].load_before)

    def _best(self, bounds: list[float], views: Sequence[ReplicaView]) -> int:
        """Position of the greatest of some figures that are known as bounds; its bound becomes the figure."""
        while True:
            best = bounds.index(max(bounds))
            view = views[best]
            if bounds[best] == -inf or bounds[best] == (figure := self._figure(view, view.load)):
                return best
            bounds[best] = figure
