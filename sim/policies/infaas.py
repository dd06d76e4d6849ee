"""Router: INFaaS++ of the Llumnix paper (OSDI'24): the replica with the least KV memory in use or queued for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..core import ReplicaView, Request


@dataclass
class Infaas:
    """Load is (blocks in use + blocks that the queue needs) / all blocks; the first replica wins a tie."""

    looks_into_engines = True

    def route(self, request: Request, views: Sequence[ReplicaView]) -> int:
        """The least loaded."""
        loads = [self.load(view) for view in views]
        return loads.index(min(loads))

    def load(self, view: ReplicaView) -> float:
        """1 = full; more with a queue."""
        load = view.load
        return (load.total_blocks - load.free_blocks + load.queued_blocks) / load.total_blocks
