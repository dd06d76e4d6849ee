"""What queue policies share whose order changes while requests wait (`queues.LiveQueuePolicy`)."""

from __future__ import annotations

from ..core import Request


class LiveOrder:
    """Told nothing, it remembers nothing."""

    fifo = False
    live = True

    def queued(self, request: Request) -> None:
        """Nothing to note."""

    def left(self, request: Request) -> None:
        """Nothing to note."""

    def key(self, request: Request) -> tuple[float, ...]:
        """Order of arrival, for those who ask about two requests by themselves."""
        return (request.arrival,)
