"""Queue policy: Autellix's program-level attained service (PLAS; arXiv 2502.13965), without preemption.

A call's priority is the service that the finished calls of its program have had, in `levels` levels whose quanta double
from `quantum` seconds on; first come, first served within one. A program that has waited `beta` times as long as it was
served goes to the top. The paper gives none of the three numbers; ours are assumptions, `beta` is off by default. As in
Continuum's re-implementation the order is that of the waiting queue: running calls are not preempted for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from ...configs.strict import check
from ...costmodels.base import TICKS_PER_SECOND
from ..core import Request


@dataclass
class Plas:
    """Priorities are those when the call comes; they do not change while it waits."""

    quantum: float = 1.0
    levels: int = 8
    beta: float = inf

    fifo = False

    def __post_init__(self) -> None:
        check(self.quantum > 0, "quantum", self.quantum, "seconds above 0")
        check(self.levels >= 1, "levels", self.levels, "at least 1")
        check(self.beta > 0, "beta", self.beta, "a ratio above 0")

    def key(self, request: Request) -> tuple[float, ...]:
        """(the preempted first, level, arrival)."""
        quanta = self._attained(request) / (self.quantum * TICKS_PER_SECOND)
        level = min(self.levels - 1, int(quanta).bit_length())
        if request.waited >= self.beta * request.served > 0:
            level = 0
        return (not request.preemptions, level, request.arrival)

    def _attained(self, request: Request) -> int:
        return request.served


@dataclass
class Atlas(Plas):
    """Autellix's ATLAS, for programs whose calls run side by side: the longest chain of finished calls counts, not
    their sum, so that branches do not make each other late."""

    def _attained(self, request: Request) -> int:
        return request.path
