"""Router: Llumnix's dispatch, to the replica with the greatest freeness (OSDI'24)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..core import ReplicaView, Request
from .freeness import Freeness


@dataclass
class LlumnixDispatch(Freeness):
    """Parameters as `Freeness`; the first replica wins a tie."""

    def route(self, request: Request, views: Sequence[ReplicaView]) -> int:
        """The freest."""
        free = [self.freeness(view) for view in views]
        return free.index(max(free))
