"""Queue policy: SGLang's longest prefix match: whoever finds most of the prompt in the prefix cache goes first.

Source: sgl-project/sglang `managers/schedule_policy.py` (`CacheAwarePolicy.LPM`): ties in order of arrival, and first
come, first served while more than 128 requests wait, as the order costs a look-up for each. Its deferral of a request
that shares a prefix with one before it is that of the batch policy `sglang`; in vLLM such requests share in one step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...configs.strict import check
from ..core import FOREVER, RankView, Request, Step
from .live_order import LiveOrder


@dataclass
class LongestPrefix(LiveOrder):
    """longest_queue : waiting requests above which the order is that of arrival."""

    longest_queue: int = 128

    def __post_init__(self) -> None:
        check(self.longest_queue >= 1, "longest_queue", self.longest_queue, "at least 1")

    def order(self, requests: Iterable[Request], view: RankView) -> list[Request]:
        """Most cached blocks first."""
        waiting = list(requests)
        if not view.caching or len(waiting) > self.longest_queue:
            return waiting
        return sorted(waiting, key=lambda r: -view.lookup(r, {})[0])

    def stands(self, step: Step, view: RankView) -> int:
        """While blocks are taken, cached ones may go."""
        return 1 if view.caching and view.waiting else FOREVER
