"""Router: the replicas in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..core import ReplicaView, Request


@dataclass
class RoundRobin:
    """Each replica in turn, whatever its load."""

    def __post_init__(self) -> None:
        self._next = -1

    def route(self, request: Request, views: Sequence[ReplicaView]) -> int:
        """The one after the last."""
        self._next = (self._next + 1) % len(views)
        return self._next
