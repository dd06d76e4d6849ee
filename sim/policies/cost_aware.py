"""Eviction policy: least frequency x recomputation saved first, for the memory that it takes.

Source: the chunk store of Cache-Craft (arXiv 2502.15734), which keeps what is frequent and dear; here for chains of
prefix blocks, with the prefill time of the whole chain a token as what a hit saves. Aged as in
GreedyDual-Size-Frequency (Cherkasova, HPL-98-69): what was once popular does not stay for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class CostAware:
    """Long chains cost more a token than short ones, for attention grows with the context."""

    by_age = False

    def worth(self, hits: int, tokens: int, floor: float, seconds: Callable[[int], float]) -> float:
        """Seconds saved so far a token of memory, on top of what is evicted now."""
        return floor + hits * seconds(tokens) / tokens if tokens else floor
