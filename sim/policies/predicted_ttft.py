"""Router: the replica with the least predicted TTFT: its queue's prompts, then the request's own uncached tokens.

What it would load from a tier or copy from another replica counts as cached, and the transfer as time. The rule of
Mooncake's conductor (FAST'25) for replicas that do both phases; `mooncake` is for prefill and decode pools.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..core import ReplicaView, Request


@dataclass
class PredictedTTFT:
    """Times come from each replica's own cost model, so replicas of different hardware compare."""

    looks_into_engines = True

    def route(self, request: Request, views: Sequence[ReplicaView]) -> int:
        """The soonest."""
        times = [self.predict(request, view) for view in views]
        return times.index(min(times))

    @staticmethod
    def predict(request: Request, view: ReplicaView) -> float:
        """Seconds until the first token there."""
        loaded, wait = view.loadable(request)
        cached = min(view.cached_tokens(request) + loaded, request.prompt_tokens - 1)
        return view.queue_seconds() + wait + view.prefill_seconds(request.prompt_tokens - cached, cached)
