"""Router: INFaaS++ of the Llumnix paper (OSDI'24): the replica with the least KV memory in use or queued for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..core import Load, ReplicaView, Request
from .freeness import greatest


@dataclass
class Infaas:
    """Load is (blocks in use + blocks that the queue needs) / all blocks; the first replica wins a tie."""

    looks_into_engines = True

    def route(self, request: Request, views: Sequence[ReplicaView]) -> int:
        """The least loaded."""
        bounds = [_spare(view.load_before) for view in views]
        return greatest(bounds, lambda i: _spare(views[i].load))


def _spare(load: Load) -> float:
    """1 - load: 0 = full; less with a queue."""
    return (load.free_blocks - load.queued_blocks) / load.total_blocks
