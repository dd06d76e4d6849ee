"""Router of prefill and decode pools: Mooncake's conductor with early rejection (FAST'25, Algorithm 1).

The prefill replica with the least predicted TTFT, the decode replica with the least predicted time between tokens;
a request that would miss its SLO at either is rejected at once (HTTP 429). Prefixes are copied between prefill replicas
where the plan's `tiers` say `peers`, with `load: kvcache_balancing` by the conductor's rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from ...configs.strict import check
from ..core import ReplicaView, Request
from .predicted_ttft import PredictedTTFT


@dataclass
class Mooncake(PredictedTTFT):
    """ttft, tbt : seconds beyond which a request is rejected; by default never."""

    ttft: float = inf
    tbt: float = inf

    def __post_init__(self) -> None:
        for key in ("ttft", "tbt"):
            check(getattr(self, key) > 0, key, getattr(self, key), "seconds above 0")

    def place(
        self, request: Request, prefill: Sequence[ReplicaView], decode: Sequence[ReplicaView]
    ) -> tuple[int, int] | None:
        """Positions in `prefill` and `decode`; None rejects."""
        first = [self.predict(request, view) for view in prefill]
        gaps = [view.decode_seconds() for view in decode]
        if not gaps or min(first) > self.ttft or min(gaps) > self.tbt:
            return None
        loads = [(gap, view.requests) for gap, view in zip(gaps, decode, strict=True)]
        return first.index(min(first)), loads.index(min(loads))
