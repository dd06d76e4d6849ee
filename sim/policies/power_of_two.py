"""Router: the less loaded of two replicas drawn at random (Mitzenmacher, "The Power of Two Choices", 2001)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...traces.streams import Stream
from ..core import ReplicaView, Request


@dataclass
class PowerOfTwo:
    """Load is the number of requests there that have not ended; the first drawn wins a tie."""

    def begin(self, stream: Stream) -> None:
        """Receive the stream of this run."""
        self._stream = stream

    def route(self, request: Request, views: Sequence[ReplicaView]) -> int:
        """Two different ones, and the one with fewer requests."""
        if len(views) == 1:
            return 0
        first = self._stream.below(len(views))
        second = self._stream.below(len(views) - 1)
        second += second >= first
        return first if views[first].requests <= views[second].requests else second
