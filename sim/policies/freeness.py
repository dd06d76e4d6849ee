"""Llumnix's virtual usage and freeness (OSDI'24, Algorithm 1), which its dispatch, migration and scaling share.

A queued request at the head of its queue uses the blocks that it demands, the others none; a running one its blocks;
high-priority requests also a headroom that keeps their replica near the speed of an empty one. Freeness is what is
left above the watermark, in KV blocks a request of the batch: the blocks' worth of decode steps until memory is full.
It may be negative.

The watermark is in the code (AlibabaPAI/llumnix, branch osdi24ae, 92f6f9d5, `vllm/instance_info.py`): without it a head
that lacks just those blocks would leave its replica free enough to be left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, inf
from typing import Literal

from ...configs.strict import check
from ..core import Load, ReplicaView
from .falling import Falling


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
        check(self.target_tokens >= 0, "target_tokens", self.target_tokens, "0 or more tokens")
        self.falling = Falling(self.freeness)

    def freeness(self, view: ReplicaView, load: Load, urgent: bool = False) -> float:
        """Of one replica with that load; -inf where it is emptied. urgent : as a high-priority request sees it, without
        headroom."""
        if load.draining:
            return -inf
        batch, demand = self._batch_and_demand(view, load, urgent)
        return (load.free_blocks - demand) / batch

    def blocks_for(self, freeness: float, view: ReplicaView, load: Load) -> int:
        """Free blocks with which a replica has at least that freeness, or one more."""
        batch, demand = self._batch_and_demand(view, load, False)
        return floor(freeness * batch) + 1 + demand

    def _batch_and_demand(self, view: ReplicaView, load: Load, urgent: bool) -> tuple[int, int]:
        """Requests that share the free blocks, at least 1, and blocks that are spoken for."""
        if self.queued == "all":
            batch, demand = load.running + load.waiting, load.queued_blocks
        else:
            batch, demand = load.running + (load.waiting > 0), load.head_blocks
        demand += load.watermark_blocks
        if self.high_priority is not None and not urgent and self.holds_high(view):
            demand += self.headroom(view)
        return batch or 1, demand

    def holds_high(self, view: ReplicaView) -> bool:
        """Whether a replica has high-priority requests."""
        high = self.high_priority
        return high is not None and any(n for priority, n in view.by_priority.items() if priority <= high)

    def headroom(self, view: ReplicaView) -> int:
        """Blocks that a replica with high-priority requests keeps free."""
        return max(0, view.load_before.total_blocks - self.target_tokens // view.block_size)
