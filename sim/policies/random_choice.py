"""Router: a replica at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...traces.streams import Stream
from ..core import ReplicaView, Request


@dataclass
class RandomChoice:
    """Uniform, from the run's stream "router"."""

    def begin(self, stream: Stream) -> None:
        """Receive the stream of this run."""
        self._stream = stream

    def route(self, request: Request, views: Sequence[ReplicaView]) -> int:
        """Any of them."""
        return self._stream.below(len(views))
