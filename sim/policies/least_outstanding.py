"""Router: the replica with the least unfinished work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..core import ReplicaView, Request


@dataclass
class LeastOutstanding:
    """by : "requests" that have not ended, or their prompt "tokens". The first replica wins a tie."""

    by: Literal["requests", "tokens"] = "requests"

    def route(self, request: Request, views: Sequence[ReplicaView]) -> int:
        """The least loaded."""
        loads = [view.requests for view in views] if self.by == "requests" else [view.tokens for view in views]
        return loads.index(min(loads))
