"""Router: INFaaS++ of the Llumnix paper (OSDI'24): the replica with the least KV memory in use or queued for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..core import Load, ReplicaView, Request
from .falling import Falling


@dataclass
class Infaas:
    """Load is (blocks in use + blocks that the queue needs) / all blocks; the first replica wins a tie."""

    looks_into_engines = True

    def __post_init__(self) -> None:
        self._spare = Falling(_spare)

    def route(self, request: Request, views: Sequence[ReplicaView]) -> int:
        """The least loaded."""
        return self._spare.greatest(views)


def _spare(view: ReplicaView, load: Load) -> float:
    """1 - load: 0 = full; less with a queue."""
    return (load.free_blocks - load.queued_blocks) / load.total_blocks
