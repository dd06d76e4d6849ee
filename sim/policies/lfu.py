"""Eviction policy: least frequently used first, then least recently used."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Lfu:
    """By the number of requests that have used a block since it was computed.

    aging : count on from what was evicted last, so that what was once popular does not stay for ever (LFU with dynamic
        aging; Arlitt et al., "Evaluating content management techniques for Web proxy caches", 2000).
    """

    aging: bool = False

    by_age = False

    def worth(self, hits: int, tokens: int, floor: float, seconds: object) -> float:
        """Requests."""
        return hits + (floor if self.aging else 0.0)
