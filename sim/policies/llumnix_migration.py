"""Rebalancer: Llumnix's pairing of replicas for live migration (OSDI'24), and its choice of the request that moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ...configs.strict import check
from ..core import ReplicaView, Request
from .freeness import Freeness


@dataclass
class LlumnixMigration(Freeness):
    """Replicas below the threshold, or with somebody preempted, give to those above it: the least free to the freest.

    period : seconds between two pairings (AlibabaPAI/llumnix main, 24220fb8: 50 ms).
    threshold : freeness, blocks a request (3 in the authors' serving runs).
    victim : "short": the lowest priority, of those the shortest (paper); "last": the last normal one of the running
        list (branch osdi24ae); "shortest" (main) or "longest" whatever the priority.
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
        check(1e-6 <= self.period <= 1e8, "period", self.period, "seconds from 1e-6 to 1e8")
        check(self.last_stage_blocks >= 1, "last_stage_blocks", self.last_stage_blocks, "at least 1")
        check(self.max_stages >= 1, "max_stages", self.max_stages, "at least 1")

    def pairs(self, views: Sequence[ReplicaView]) -> list[tuple[int, int]]:
        """(source, target) positions."""
        if len(views) < 2:
            return []
        free = [self.freeness(view) for view in views]
        loads = [view.load for view in views]
        thrashing = [load.thrashing for load in loads]
        if min(free) >= self.threshold and not any(thrashing):
            return []
        order = sorted(range(len(views)), key=lambda i: (free[i], i))
        sources = [i for i in order if (free[i] < self.threshold or thrashing[i]) and loads[i].running]
        targets = [i for i in reversed(order) if free[i] > self.threshold and not thrashing[i]]
        pairs = [pair for pair in zip(sources, targets, strict=False) if pair[0] != pair[1]]
        if self.balanced:
            pairs = [(i, j) for i, j in pairs if views[i].free_share < views[j].free_share]
        return pairs

    def candidate(self, running: Sequence[Request]) -> Request | None:
        """Who moves, of the decoding requests of the source."""
        if self.victim == "last":
            normal = [r for r in running if self.high_priority is None or r.priority > self.high_priority]
            return normal[-1] if normal else None
        if self.victim == "short":
            return max(running, key=lambda r: (r.priority, -r.context(), -r.index), default=None)
        sign = 1 if self.victim == "shortest" else -1
        return min(running, key=lambda r: (sign * r.context(), r.index), default=None)
