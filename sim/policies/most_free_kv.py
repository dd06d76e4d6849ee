"""Router: the replica with the most free KV memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..core import ReplicaView, Request


@dataclass
class MostFreeKV:
    """Share of free KV blocks, so that replicas of different size compare; the first wins a tie."""

    def route(self, request: Request, views: Sequence[ReplicaView]) -> int:
        """The emptiest."""
        free = [view.free_share for view in views]
        return free.index(max(free))
