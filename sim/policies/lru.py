"""Eviction policy: least recently used first, as in vLLM."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Lru:
    """By age. A request frees its blocks from the last to the first, so tails go before heads."""

    by_age = True

    def worth(self, hits: int, tokens: int, floor: float, seconds: object) -> float:
        """Not asked: the free list keeps the order by itself."""
        return 0.0
