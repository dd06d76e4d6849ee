"""Autoscaler: Llumnix's, which keeps the mean freeness of the replicas within a band (OSDI'24).

Source: AlibabaPAI/llumnix, branch osdi24ae (92f6f9d5): below `low` replicas are added until the mean would be there;
one goes when the mean without it would still exceed `high`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...configs.strict import check
from ..core import ReplicaView
from .freeness import Freeness


@dataclass
class LlumnixScaling(Freeness):
    """low, high : mean freeness, KV blocks a request ([10, 60] in the authors' runs)."""

    low: float = 10.0
    high: float = 60.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.low < self.high, "low", self.low, f"below high = {self.high:g}")

    def wanted(self, views: Sequence[ReplicaView], starting: int, now: float, recent: Sequence[float]) -> int:
        """More until the mean is at `low`, or one fewer."""
        have = len(views) + starting
        if not views:
            return have
        free = [self.freeness(view, view.load) for view in views]
        empty = max(view.load.total_blocks for view in views)
        total = sum(free) + empty * starting
        if total / have < self.low:
            while total / have < self.low:
                total += empty
                have += 1
            return have
        if starting or len(free) == 1 or sum(free[:-1]) / (len(free) - 1) <= self.high:
            return have
        return have - 1
