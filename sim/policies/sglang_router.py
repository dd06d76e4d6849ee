"""Router: SGLang's cache-aware policy: balanced load first, then the best match, then the emptiest cache.

Source: sgl-project/sglang `sgl-router` (`CacheAwareRouter`). Its approximate radix tree of what it has sent where is
here the replica's own prefix cache, as of the view's age.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...configs.strict import check
from ..core import ReplicaView, Request


@dataclass
class SglangRouter:
    """balance_abs_threshold, balance_rel_threshold : the load, in requests, is out of balance when the greatest exceeds
    the least by more than both. cache_threshold : share of the prompt that must match."""

    cache_threshold: float = 0.5
    balance_abs_threshold: int = 32
    balance_rel_threshold: float = 1.0001

    def __post_init__(self) -> None:
        check(0 <= self.cache_threshold <= 1, "cache_threshold", self.cache_threshold, "a share from 0 to 1")
        check(self.balance_abs_threshold >= 0, "balance_abs_threshold", self.balance_abs_threshold, "0 or more")
        check(self.balance_rel_threshold >= 1, "balance_rel_threshold", self.balance_rel_threshold, "at least 1")

    def route(self, request: Request, views: Sequence[ReplicaView]) -> int:
        """Shortest queue, best match, or most free."""
        loads = [view.requests for view in views]
        least, most = min(loads), max(loads)
        if most - least > self.balance_abs_threshold and most > least * self.balance_rel_threshold:
            return loads.index(least)
        cached = [view.cached_tokens(request) for view in views]
        best = max(cached)
        if best > self.cache_threshold * request.prompt_tokens:
            return cached.index(best)
        free = [view.free_share for view in views]
        return free.index(max(free))
