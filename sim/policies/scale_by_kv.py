"""Autoscaler: to a target share of KV memory in use, as the Kubernetes horizontal autoscaler does with a metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from ...configs.strict import check
from ..core import ReplicaView


@dataclass
class ScaleByKV:
    """wanted = ceil(replicas x use / target), nothing changes within `tolerance` of the target."""

    target: float = 0.7
    tolerance: float = 0.1

    def __post_init__(self) -> None:
        check(0 < self.target <= 1, "target", self.target, "a share above 0, at most 1")
        check(0 <= self.tolerance < 1, "tolerance", self.tolerance, "a share of at least 0 and below 1")

    def wanted(self, views: Sequence[ReplicaView], starting: int, now: float, recent: Sequence[float]) -> int:
        """Blocks in use and queued for, over the target."""
        have = len(views) + starting
        if not views:
            return have
        loads = [view.load for view in views]
        used = sum(load.total_blocks - load.free_blocks + load.queued_blocks for load in loads)
        use = used / sum(load.total_blocks for load in loads)
        ratio = use * len(views) / have / self.target
        return have if abs(ratio - 1) <= self.tolerance else max(1, ceil(have * ratio))
