"""Router: Punica's consolidation (MLSys'24): the busiest replica that has room, so that idle ones can be let go.

With any adapter as cheap as any other in a batch, requests need not be spread by adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...configs.strict import check
from ..core import ReplicaView, Request


@dataclass
class Punica:
    """max_batch : requests that a replica is filled with (the paper: 32). The last replica wins a tie."""

    max_batch: int = 32

    looks_into_engines = True

    def __post_init__(self) -> None:
        check(self.max_batch >= 1, "max_batch", self.max_batch, "at least 1")

    def route(self, request: Request, views: Sequence[ReplicaView]) -> int:
        """The most requests of those with a slot and memory for the prompt; if there is none, the fewest."""
        blocks = [-(-request.prompt_tokens // view.block_size) for view in views]
        room = [
            i
            for i, view in enumerate(views)
            if view.requests < self.max_batch and view.load.free_blocks - view.load.queued_blocks >= blocks[i]
        ]
        if room:
            return max(room, key=lambda i: (views[i].requests, i))
        return min(range(len(views)), key=lambda i: views[i].requests)
