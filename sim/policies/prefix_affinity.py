"""Router: the replica with the longest cached prefix; without a match worth it, the one with the fewest requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...configs.strict import check
from ..core import ReplicaView, Request


@dataclass
class PrefixAffinity:
    """min_share : the share of the prompt that must be cached for a replica to be preferred."""

    min_share: float = 0.0

    def __post_init__(self) -> None:
        check(0 <= self.min_share <= 1, "min_share", self.min_share, "a share from 0 to 1")

    def route(self, request: Request, views: Sequence[ReplicaView]) -> int:
        """Longest match, then fewest requests."""
        cached = [view.cached_tokens(request) for view in views]
        if max(cached) <= self.min_share * request.prompt_tokens:
            cached = [0] * len(views)
        return min(range(len(views)), key=lambda i: (-cached[i], views[i].requests, i))
