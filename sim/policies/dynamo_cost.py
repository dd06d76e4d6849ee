"""Router: NVIDIA Dynamo's KV router: what is to be prefilled there plus what decodes there, in KV blocks.

Source: ai-dynamo/dynamo, docs/architecture/kv_cache_routing.md: cost = overlap_score_weight x prefill blocks + active
blocks; the least costly worker, or at a temperature a softmax over the negative costs scaled to their range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

from ...configs.strict import check
from ...traces.streams import Stream
from ..core import ReplicaView, Request


@dataclass
class DynamoCost:
    """overlap_weight : of prefill blocks (1.0). temperature : 0 = always the least costly. decodes : whether active
    blocks count (not for the router of a prefill pool)."""

    overlap_weight: float = 1.0
    temperature: float = 0.0
    decodes: bool = True

    looks_into_engines = True

    def __post_init__(self) -> None:
        check(self.overlap_weight >= 0, "overlap_weight", self.overlap_weight, "0 or more")
        check(self.temperature >= 0, "temperature", self.temperature, "0 or more")

    def begin(self, stream: Stream) -> None:
        """Receive the stream of this run."""
        self._stream = stream

    def route(self, request: Request, views: Sequence[ReplicaView]) -> int:
        """Least cost, or a draw."""
        costs = [self._cost(request, view) for view in views]
        low, high = min(costs), max(costs)
        if self.temperature == 0 or low == high:
            return costs.index(low)
        weights = [exp(-(cost - low) / (high - low) / self.temperature) for cost in costs]
        left = self._stream.next() * sum(weights)
        for place, weight in enumerate(weights):
            left -= weight
            if left < 0:
                return place
        return len(costs) - 1

    def _cost(self, request: Request, view: ReplicaView) -> float:
        size = view.block_size
        waiting = -(-view.pending_tokens // size)
        new = (request.prompt_tokens - view.cached_tokens(request)) / size
        load = view.load
        active = load.total_blocks - load.free_blocks if self.decodes else 0
        return self.overlap_weight * (waiting + new) + active
