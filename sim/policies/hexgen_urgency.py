"""Queue policy: HexGen-Flow's local level (arXiv 2505.05286): the most urgent call first.

A call's share of its program's time that is left is that of its stage's mean work in all the work ahead; it is urgent
by how much of that share its waiting and its expected run take up. Every waiting call ages alike, so the order is that
of the latest start that still keeps the share, which does not change. Calls without a deadline come last, by arrival.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from ...configs.strict import check
from ...costmodels.base import TICKS_PER_SECOND
from ..core import Request


@dataclass
class HexgenUrgency:
    """prompt_rate, output_rate : tokens/s at which a call is expected to be served."""

    prompt_rate: float = 10_000.0
    output_rate: float = 50.0

    fifo = False

    def __post_init__(self) -> None:
        for key in ("prompt_rate", "output_rate"):
            check(getattr(self, key) > 0, key, getattr(self, key), "tokens/s above 0")

    def key(self, request: Request) -> tuple[float, ...]:
        """(the preempted first, latest start, arrival)."""
        run = request.prompt_tokens / self.prompt_rate + request.expected / self.output_rate
        latest = request.due - run * TICKS_PER_SECOND if request.due >= 0 else inf
        return (not request.preemptions, latest, request.arrival)
