"""Router: HexGen-Flow's global level (arXiv 2505.05286): a call goes where it is fast and where little is queued.

The score of a replica is alpha x (fastest time / its time for the call) - (1 - alpha) x (its queued work / the least
queued work); replicas without queued work come first. Rewritten from a description: the authors' code has no licence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...configs.strict import check

if TYPE_CHECKING:
    from ..core import ReplicaView, Request


@dataclass
class HexgenRouter:
    """alpha : the weight of speed, tuned by simulation in the paper (0 to 0.5)."""

    alpha: float = 0.2

    looks_into_engines = True

    def __post_init__(self) -> None:
        check(0 <= self.alpha <= 1, "alpha", self.alpha, "0 to 1")

    def route(self, request: Request, replicas: Sequence[ReplicaView]) -> int:
        """Position of the replica."""
        times = [
            view.prefill_seconds(request.prompt_tokens, 0) + request.expected * view.decode_seconds()
            for view in replicas
        ]
        queued = [view.queue_seconds() for view in replicas]
        idle = [i for i, work in enumerate(queued) if not work]
        if idle:
            return min(idle, key=lambda i: (times[i], i))
        fastest, least = min(times), min(queued)

        def score(i: int) -> float:
            return self.alpha * fastest / times[i] - (1 - self.alpha) * queued[i] / least

        return max(range(len(times)), key=lambda i: (score(i), -i))
