"""Load policy: Mooncake's conductor (FAST'25, Algorithm 1): a prefix is copied where another place has much more of it.

Much more: over `threshold` times what the device has, the paper's kvcache_balancing_threshold, tuned by hand and not
published. And only where copying is faster than computing; the paper's conductor compares the two when it picks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...configs.strict import check

if TYPE_CHECKING:
    from ..keep.tiers import Found


@dataclass
class KVCacheBalancing:
    """threshold : the longest match over the device's own, from which on a prefix is copied."""

    threshold: float = 1.5

    def __post_init__(self) -> None:
        check(self.threshold >= 1, "threshold", self.threshold, "at least 1")

    def compression(self, found: Found) -> float:
        """1 = copied as it is, 0 = computed."""
        if found.cached + found.tokens <= self.threshold * found.cached:
            return 0.0
        return float(found.load(found.size) < found.prefill(found.tokens, found.cached))
