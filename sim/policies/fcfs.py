"""Queue policy: first come, first served; the preempted go back to the head."""

from __future__ import annotations

from dataclasses import dataclass

from ..core import Request


@dataclass
class Fcfs:
    """Order of arrival."""

    fifo = True

    def key(self, request: Request) -> tuple[float, ...]:
        """Not asked: the queue keeps the order by itself."""
        return (request.arrival,)
