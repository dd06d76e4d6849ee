"""Queue policy: vLLM's `--scheduling-policy priority`; the lowest value first, then the earliest arrival.

With the KV policy's `victim_rule: lowest_priority` the same order decides who is preempted, as in vLLM.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..core import Request


@dataclass
class Priority:
    """Order of the trace's `priority` column."""

    fifo = False

    def key(self, request: Request) -> tuple[float, ...]:
        """Priority, then arrival."""
        return (request.priority, request.arrival)
