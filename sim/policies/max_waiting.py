"""Admission: turn requests away while every replica has a long queue (load shedding)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...configs.strict import check
from ..core import ReplicaView, Request


@dataclass
class MaxWaiting:
    """limit : waiting requests on the replica with the fewest."""

    limit: int

    def __post_init__(self) -> None:
        check(self.limit >= 0, "limit", self.limit, "0 or more requests")

    def admit(self, request: Request, views: Sequence[ReplicaView], now: int) -> bool:
        """Whether some queue is not longer than the limit."""
        return min(view.load.waiting for view in views) <= self.limit
