"""Router: shares of the load by prompt length and replica, as a planner sets them for replicas of unequal speed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from ...configs.strict import check
from ..core import ReplicaView, Request


@dataclass
class PlannedShares:
    """The replica with the least (requests + 1) / weight of those whose weight is not 0; the first wins a tie.

    weights : requests that each replica, by number, ought to hold in proportion, for every class of prompt lengths.
    bounds : longest prompt of each class but the last; ascending. Where no candidate has a weight, all count alike.
    affinity : count a replica's requests by the share of the prompt that is not in its prefix cache, so that a session
    goes on where its KV cache is, unless that replica holds many times the load of others.
    """

    weights: tuple[tuple[float, ...], ...]
    bounds: tuple[int, ...] = ()
    affinity: bool = False

    def __post_init__(self) -> None:
        check(
            len(self.weights) == len(self.bounds) + 1, "weights", len(self.weights), "a row more than there are bounds"
        )
        check(list(self.bounds) == sorted(set(self.bounds)), "bounds", self.bounds, "prompt lengths in ascending order")
        check(all(w >= 0 for row in self.weights for w in row), "weights", self.weights, "numbers, not negative")

    def route(self, request: Request, views: Sequence[ReplicaView]) -> int:
        """The least loaded for its weight."""
        weights = self.weights[bisect_left(self.bounds, request.prompt_tokens)]
        best, least = 0, float("inf")
        for i, view in enumerate(views):
            weight = weights[view.id] if view.id < len(weights) else 0.0
            if weight:
                load = (view.requests + 1) / weight
                if self.affinity:
                    load *= 1 - view.cached_tokens(request) / request.prompt_tokens
                if load < least:
                    best, least = i, load
        if least < float("inf"):
            return best
        return min(range(len(views)), key=lambda i: views[i].requests)
