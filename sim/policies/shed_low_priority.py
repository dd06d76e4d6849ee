"""Admission: under pressure only urgent requests come in; how urgent depends on how full the cluster is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...configs.strict import check
from ..core import ReplicaView, Request


@dataclass
class ShedLowPriority:
    """Requests of a priority value above `keep` are rejected while less than `free_share` of all KV blocks is free."""

    keep: int = 0
    free_share: float = 0.1

    def __post_init__(self) -> None:
        check(0 <= self.free_share <= 1, "free_share", self.free_share, "a share from 0 to 1")

    def admit(self, request: Request, views: Sequence[ReplicaView], now: int) -> bool:
        """Urgent, or room enough."""
        if request.priority <= self.keep:
            return True
        loads = [view.load for view in views]
        return sum(load.free_blocks for load in loads) >= self.free_share * sum(load.total_blocks for load in loads)
