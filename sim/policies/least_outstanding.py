"""Router: the replica with the least unfinished work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..core import ReplicaView, Request


@dataclass
class LeastOutstanding:
    """by : "requests" that have not ended, their prompt "tokens", or the "pending" ones: prompt tokens that are still
    to be computed, and one for each request that decodes (Splitwise's token JSQ). The first replica wins a tie."""

    by: Literal["requests", "tokens", "pending"] = "requests"

    def __post_init__(self) -> None:
        self.looks_into_engines = self.by == "pending"

    def route(self, request: Request, views: Sequence[ReplicaView]) -> int:
        """The least loaded."""
        if self.by == "pending":
            loads = [view.pending_tokens + view.load.running for view in views]
        else:
            loads = [view.requests if self.by == "requests" else view.tokens for view in views]
        return loads.index(min(loads))
