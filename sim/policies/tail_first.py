"""Eviction policy: the deepest blocks first, so that short shared heads survive everything."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class TailFirst:
    """By the distance from the beginning of the prompt, then least recently used."""

    by_age = False

    def worth(self, hits: int, tokens: int, floor: float, seconds: object) -> float:
        """The less, the deeper."""
        return 1.0 / (1 + tokens)
