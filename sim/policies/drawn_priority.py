"""Queue policy: priorities that are drawn anew every so often, as in FastSwitch's study of fair serving (2024).

Source: FastSwitch, evaluation: an outside fairness policy changes the requests' priorities at a frequency (0.04 an
iteration, for LLaMA-8B on an A10), whatever it is; the engine has to follow with context switches. With the batch
policy `preemptive` and the KV policy `swap`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...configs.strict import check
from ...traces.streams import Stream
from ..core import FOREVER, RankView, Request, Step
from .live_order import LiveOrder


@dataclass
class DrawnPriority(LiveOrder):
    """period : iterations between two draws. seed : of the draws, one for every request and period."""

    period: int = 25
    seed: int = 0

    def __post_init__(self) -> None:
        check(self.period >= 1, "period", self.period, "at least 1 iteration")
        self._epoch = -1
        self._drawn: dict[Request, float] = {}

    def order(self, requests: Iterable[Request], view: RankView) -> list[Request]:
        """Least priority value first."""
        epoch = view.steps // self.period
        if epoch != self._epoch:
            self._epoch, self._drawn = epoch, {}
        return sorted(requests, key=self._priority)

    def _priority(self, request: Request) -> float:
        if request not in self._drawn:
            self._drawn[request] = Stream(self.seed, f"priority {self._epoch} {request.index}").next()
        return self._drawn[request]

    def stands(self, step: Step, view: RankView) -> int:
        """Until the next draw."""
        return self.period - view.steps % self.period if view.waiting or view.swapped else FOREVER
