"""Rebalancer: Llumnix's pairing of replicas for live migration (OSDI'24), and its choice of the request that moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import inf
from typing import Literal

from ...configs.strict import check
from ..core import ReplicaView, Request
from .falling import News
from .freeness import Freeness


@dataclass
class LlumnixMigration(Freeness):
    """Replicas below the threshold, or with somebody preempted, give to those above it: the least free to the freest.

    period : seconds between two pairings (AlibabaPAI/llumnix main, 24220fb8: 50 ms).
    threshold : freeness, blocks a request (3 in the authors' serving runs).
    victim : "short": the lowest priority, of those the shortest (paper); "last": the last one of the running list
        (branch osdi24ae); "shortest" (main) or "longest" whatever the priority. Never one of high priority.
    balanced : keep a pair only if the source stays below the target (the artifact's alternative, without which
        head-of-line blocking is what migration cures).
    """

    period: float = 0.05
    threshold: float = 3.0
    victim: Literal["short", "last", "shortest", "longest"] = "short"
    balanced: bool = False
    last_stage_blocks: int = 16
    max_stages: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        self._news = News()
        self._innocent: list[int] = []  # by position: no source before that tick
        check(1e-6 <= self.period <= 1e8, "period", self.period, "seconds from 1e-6 to 1e8")
        check(self.last_stage_blocks >= 1, "last_stage_blocks", self.last_stage_blocks, "at least 1")
        check(self.max_stages >= 1, "max_stages", self.max_stages, "at least 1")

    def pairs(self, views: Sequence[ReplicaView], now: int) -> tuple[list[tuple[int, int]], float]:
        """(source, target) positions. Where there are no targets, none appear without news."""
        suspects = self._suspects(views, now)
        if not suspects:
            return [], min(self._innocent, default=inf)
        targets = (i for i in self.falling.above(self.threshold, views) if not views[i].load_before.thrashing)
        first = next(targets, None)
        if first is None:
            return [], now if any(view.news is None for view in views) else inf
        pairs = list(zip(self._sources(views, suspects), chain([first], targets), strict=False))
        if self.balanced:
            pairs = [(i, j) for i, j in pairs if views[i].free_share < views[j].free_share]
        return pairs, now

    def _suspects(self, views: Sequence[ReplicaView], now: int) -> list[int]:
        """Positions of those that may be sources; most are known not to be."""
        changed = self._news.since(views)
        if len(self._innocent) != len(views):
            self._innocent = [-1] * len(views)
        innocent = self._innocent
        for i in changed:
            innocent[i] = -1
        if min(innocent, default=inf) > now:
            return []
        suspects = [i for i, until in enumerate(innocent) if until <= now]
        for i in suspects:
            if innocent[i] < 0:
                innocent[i] = self._source_from(views[i], now)
        return [i for i in suspects if innocent[i] <= now]

    def _sources(self, views: Sequence[ReplicaView], suspects: Sequence[int]) -> list[int]:
        """Those below the threshold or with somebody preempted, the least free first."""
        found = []
        for i in suspects:
            load = views[i].load
            free = self.freeness(views[i], load)
            if load.running and (free < self.threshold or load.thrashing):
                found.append((free, i))
        return [i for _, i in sorted(found)]

    def _source_from(self, view: ReplicaView, now: int) -> int:
        """The tick from which a replica may be a source, if there is no news."""
        load = view.load_before
        if not load.running:
            return view.lasts(0)
        if load.thrashing or load.draining:
            return now
        return view.lasts(self.blocks_for(self.threshold, view, load))

    def candidate(self, running: Sequence[Request]) -> Request | None:
        """Who moves, of the decoding requests of the source; not those for whom the headroom is kept."""
        high = self.high_priority
        normal = [r for r in running if high is None or r.priority > high]
        if self.victim == "last":
            return normal[-1] if normal else None
        if self.victim == "short":
            return max(normal, key=lambda r: (r.priority, -r.context(), -r.index), default=None)
        sign = 1 if self.victim == "shortest" else -1
        return min(normal, key=lambda r: (sign * r.context(), r.index), default=None)
