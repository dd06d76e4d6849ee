"""Autoscaler: by the mean number of waiting requests a replica."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...configs.strict import check
from ..core import ReplicaView


@dataclass
class ScaleByQueue:
    """A replica more above `high` waiting requests each, one fewer below `low` of them if none runs out of room."""

    high: float = 4.0
    low: float = 0.5

    def __post_init__(self) -> None:
        check(0 <= self.low < self.high, "low", self.low, f"at least 0 and below high = {self.high:g}")

    def wanted(self, views: Sequence[ReplicaView], starting: int, now: float, recent: Sequence[float]) -> int:
        """One step at a time."""
        have = len(views) + starting
        if not views:
            return have
        mean = sum(view.load.waiting for view in views) / have
        busy = sum(1 - view.free_share for view in views)
        fits = len(views) > 1 and busy / (len(views) - 1) < 0.9
        return have + (mean > self.high) - (mean < self.low and not starting and fits)
