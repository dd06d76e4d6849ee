"""Autoscaler: a number of replicas by time, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from ...configs.strict import check
from ..core import ReplicaView


@dataclass
class ScaleBySchedule:
    """steps : [seconds, replicas] in order of time; before the first, as at the start. every : seconds after which the
    table begins again (86400 = daily)."""

    steps: list[list[float]]
    every: float = inf

    def __post_init__(self) -> None:
        check(bool(self.steps), "steps", self.steps, "at least one [seconds, replicas]")
        for i, step in enumerate(self.steps):
            check(len(step) == 2 and step[1] >= 1, f"steps[{i}]", step, "[seconds, replicas], at least 1 replica")
        times = [step[0] for step in self.steps]
        check(times == sorted(times), "steps", times, "times in order")
        check(self.every > 0, "every", self.every, "seconds above 0")

    def wanted(self, views: Sequence[ReplicaView], starting: int, now: float, recent: Sequence[float]) -> int:
        """What the table says now."""
        time = now % self.every if self.every < inf else now
        passed = [int(replicas) for at, replicas in self.steps if at <= time]
        return passed[-1] if passed else len(views) + starting
