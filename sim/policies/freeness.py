"""Llumnix's virtual usage and freeness (OSDI'24, Algorithm 1), which its dispatch, migration and scaling share.

A queued request at the head of its queue uses the blocks that it demands, the others none; a running one its blocks;
high-priority requests also a headroom that keeps their replica near the speed of an empty one. Freeness is what is
left, in KV blocks a request of the batch: the blocks' worth of decode steps until memory is full. It may be negative.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ...configs.strict import check
from ..core import Load, ReplicaView


@dataclass
class Freeness:
    """queued : the demand that counts: of the "head" of the queue (paper), or of "all" in it, who then count in the
        batch as well (AlibabaPAI/llumnix, branch osdi24ae, 92f6f9d5).
    high_priority : requests with this priority value or a lower one, below 0, get headroom; None = nobody.
    target_tokens : the load that a replica with such a request is to have (1,600 in the authors' runs).
    """

    queued: Literal["head", "all"] = "head"
    high_priority: int | None = None
    target_tokens: int = 1600

    def __post_init__(self) -> None:
        high = self.high_priority
        check(high is None or high < 0, "high_priority", high, "a priority below 0, or nothing")
        self._known: dict[int, tuple[Load, float]] = {}  # by replica: a load is the same for many requests
        self._known_ahead: dict[int, tuple[Load, float]] = {}
        check(self.target_tokens >= 0, "target_tokens", self.target_tokens, "0 or more tokens")

    def freeness(self, view: ReplicaView, urgent: bool = False) -> float:
        """Of one replica; -inf where it is emptied. urgent : as a high-priority request sees it, without headroom."""
        return self._of(view, view.load, urgent, self._known)

    def freeness_before(self, view: ReplicaView, urgent: bool = False) -> float:
        """Not less than `freeness`, and cheaper."""
        return self._of(view, view.load_before, urgent, self._known)

    def freeness_ahead(self, view: ReplicaView) -> float:
        """Not more than `freeness` until an engine decides anew or a request arrives."""
        return self._of(view, view.load_ahead, False, self._known_ahead)

    def _of(self, view: ReplicaView, load: Load, urgent: bool, memory: dict[int, tuple[Load, float]]) -> float:
        known = memory.get(view.id)
        if known and known[0] is load and self.high_priority is None:
            return known[1]
        value = float("-inf")
        if not load.draining:
            if self.queued == "all":
                batch, demand = load.running + load.waiting, load.queued_blocks
            else:
                batch, demand = load.running + (load.waiting > 0), load.head_blocks
            reserved = self.headroom(view) if self.holds_high(view) and not urgent else 0
            value = (load.free_blocks - demand - reserved) / (batch or 1)
        memory[view.id] = load, value
        return value

    def holds_high(self, view: ReplicaView) -> bool:
        """Whether a replica has high-priority requests."""
        high = self.high_priority
        return high is not None and any(n for priority, n in view.by_priority.items() if priority <= high)

    def headroom(self, view: ReplicaView) -> int:
        """Blocks that a replica with high-priority requests keeps free."""
        return max(0, view.load.total_blocks - self.target_tokens // view.block_size)


def greatest(bounds: list[float], value: Callable[[int], float]) -> int:
    """Position of the greatest value, the first of equal ones, given bounds from above: few values are computed."""
    while True:
        best = bounds.index(max(bounds))
        exact = value(best)
        if exact == bounds[best]:
            return best
        bounds[best] = exact
