"""Rebalancer: Llumnix's pairing of replicas for live migration (OSDI'24), and its choice of the request that moves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal

from ...configs.strict import check
from ..core import Load, ReplicaView, Request
from .freeness import Freeness, greatest


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
        self._innocent: dict[int, Load] = {}  # by replica: its last load of no concern
        check(1e-6 <= self.period <= 1e8, "period", self.period, "seconds from 1e-6 to 1e8")
        check(self.last_stage_blocks >= 1, "last_stage_blocks", self.last_stage_blocks, "at least 1")
        check(self.max_stages >= 1, "max_stages", self.max_stages, "at least 1")

    def pairs(self, views: Sequence[ReplicaView]) -> list[tuple[int, int]]:
        """(source, target) positions."""
        suspects = self._suspects(views)
        free = {i: self.freeness(views[i]) for i in suspects}
        loads = {i: views[i].load for i in suspects}
        sources = [i for i in suspects if (free[i] < self.threshold or loads[i].thrashing) and loads[i].running]
        sources.sort(key=lambda i: (free[i], i))
        pairs = list(zip(sources, self._targets(views), strict=False))
        if self.balanced:
            pairs = [(i, j) for i, j in pairs if views[i].free_share < views[j].free_share]
        return pairs

    def _targets(self, views: Sequence[ReplicaView]) -> Iterator[int]:
        """Those above the threshold, from the freest on."""
        bounds = [self.freeness_before(view) for view in views]
        while True:
            best = greatest(bounds, lambda i: min(bounds[i], self.freeness(views[i])))
            if bounds[best] <= self.threshold:
                return
            if not views[best].load.thrashing:
                yield best
            bounds[best] = -inf

    def calm(self, views: Sequence[ReplicaView]) -> bool:
        """No replica is below the threshold or has somebody preempted, nor will be before something happens."""
        return not self._suspects(views)

    def _suspects(self, views: Sequence[ReplicaView]) -> list[int]:
        """Those that are sources now or before something happens; most are known not to be."""
        found = []
        for i, view in enumerate(views):
            load = view.load_ahead
            if self._innocent.get(view.id) is load:
                continue
            if self.freeness_ahead(view) < self.threshold or load.thrashing:
                found.append(i)
            elif self.high_priority is None:
                self._innocent[view.id] = load
        return found

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
