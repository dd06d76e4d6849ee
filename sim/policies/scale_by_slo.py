"""Autoscaler: by the share of recent requests that kept their TTFT limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...configs.strict import check
from ..core import ReplicaView


@dataclass
class ScaleBySLO:
    """A replica more when fewer than `attainment` of the last look's requests had their first token within `ttft`
    seconds; one fewer when all of them had it within `relaxed` x `ttft`."""

    ttft: float
    attainment: float = 0.95
    relaxed: float = 0.25

    def __post_init__(self) -> None:
        check(self.ttft > 0, "ttft", self.ttft, "seconds above 0")
        check(0 < self.attainment <= 1, "attainment", self.attainment, "a share above 0, at most 1")
        check(0 <= self.relaxed < 1, "relaxed", self.relaxed, "a share of at least 0 and below 1")

    def wanted(self, views: Sequence[ReplicaView], starting: int, now: float, recent: Sequence[float]) -> int:
        """One step at a time; nothing without requests."""
        have = len(views) + starting
        if not recent:
            return have
        good = sum(ttft <= self.ttft for ttft in recent) / len(recent)
        if good < self.attainment:
            return have + 1
        return have - (not starting and max(recent) <= self.relaxed * self.ttft)
