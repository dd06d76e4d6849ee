"""The semantic cache of a run: an old answer for a question that was asked before, or a little more delay.

Source: "Category-Aware Semantic Caching for Heterogeneous LLM Workloads" (2025): thresholds, lifetimes and quotas by
category; a look-up pays where the hit rate exceeds its time over the time that a hit saves.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...configs.semantic import Category, SemanticCache
from ...costmodels.base import ticks
from ...errors import unknown_name
from ...traces.streams import Stream
from ...traces.table import RequestTable
from ..core import Request
from ..records import End
from .cluster import Cluster


@dataclass
class Shelf:
    """The answers to one category's questions. stored : question -> tick, least recently used first."""

    spec: Category
    stored: dict[int, int] = field(default_factory=dict)
    searches: int = 0
    hits: int = 0

    def find(self, question: int, similarity: float, now: int, threshold: float) -> bool:
        """Whether there is an answer; one that is given counts as used, one that is too old is thrown away."""
        stored = self.stored.pop(question, None)
        if stored is None or now - stored > self.spec.ttl * ticks(1):
            return False
        self.stored[question] = stored
        return similarity >= threshold

    def keep(self, question: int, now: int) -> None:
        """A new answer."""
        self.stored.pop(question, None)
        self.stored[question] = now
        if self.spec.quota and len(self.stored) > self.spec.quota:
            del self.stored[next(iter(self.stored))]


class FrontEnd:
    """Stands before the router; it is the `engine` of requests that are being looked up."""

    def __init__(self, cluster: Cluster, spec: SemanticCache, table: RequestTable, seed: int) -> None:
        self._cluster, self._spec = cluster, spec
        self._search = ticks(spec.search)
        names = table.request_class.names if table.request_class else ()
        for name in spec.categories:
            if name and name not in names:
                raise unknown_name(f"semantic_cache.categories.{name}", "class of this trace", name, names)
        classes = list(table.request_class) if table.request_class else [None] * len(table)
        self.shelves = {name: Shelf(category) for name, category in spec.categories.items()}
        self._shelf = [self.shelves.get(name or "") for name in classes]
        self._luck = Stream(seed, "semantic cache, wording").uniform(len(table))
        self._question = np.zeros(len(table), np.int64)
        for name, category in spec.categories.items():
            rows = [row for row, kind in enumerate(classes) if (kind or "") == name]
            self._question[rows] = _drawn(category, len(rows), Stream(seed, f"semantic cache, questions {name}"))
        cluster.on_end.append(self._ended)

    def takes(self, request: Request) -> bool:
        """Look a request up, if it is of a category that is."""
        if self._shelf[request.row] is None:
            return False
        request.engine = self
        cluster = self._cluster
        cluster.post(cluster.env.now + self._search, self._searched, request)
        return True

    def _searched(self, request: Request) -> None:
        if request.over:
            return
        cluster, now = self._cluster, self._cluster.env.now
        shelf = self._shelf[request.row]
        assert shelf is not None
        shelf.searches += 1
        if not self._found(shelf, request, now):
            cluster.dispatch(request)
            return
        shelf.hits += 1
        request.queued = request.scheduled = request.first_token = request.last_token = now
        request.queueing = now - request.arrival
        request.generated = cluster.lengths[request.index]
        cluster.finished(request, now)

    def _found(self, shelf: Shelf, request: Request, now: int) -> bool:
        spec, luck = shelf.spec, float(self._luck[request.row])
        if spec.hit_rate is not None:
            return luck < spec.hit_rate
        similarity = spec.least_similarity + luck * (1 - spec.least_similarity)
        load = min(1.0, len(self._cluster.live) / self._spec.busy)
        return shelf.find(int(self._question[request.row]), similarity, now, spec.threshold - load * self._spec.loosen)

    def _ended(self, request: Request, end: End, now: int) -> None:
        shelf = self._shelf[request.row]
        if shelf and end is End.FINISHED and request.replica >= 0:
            shelf.keep(int(self._question[request.row]), now)

    def cancel(self, request: Request) -> None:
        """The client of one has gone while it was looked up."""
        self._cluster.gone(request, self._cluster.env.now)

    def figures(self) -> dict[str, dict[str, float]]:
        """By category: look-ups, and the share of them that found an answer."""
        return {
            name: {"searches": shelf.searches, "hit_rate": shelf.hits / shelf.searches if shelf.searches else 0.0}
            for name, shelf in self.shelves.items()
        }


def _drawn(category: Category, n: int, stream: Stream) -> np.ndarray:
    """Which question each of n requests asks."""
    if category.questions is None:
        return np.zeros(n, np.int64)
    shares = np.cumsum(np.arange(1, category.questions + 1, dtype=float) ** -category.alpha)
    drawn = np.searchsorted(shares, stream.uniform(n) * shares[-1], side="right")
    return np.minimum(drawn, category.questions - 1)
