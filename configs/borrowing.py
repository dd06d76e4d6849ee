"""KV memory that replicas of a pool lend each other (Infinite-LLM)."""

from __future__ import annotations

from dataclasses import dataclass

from .strict import check


@dataclass(frozen=True)
class KVBorrowing:
    """grain : KV blocks that are lent at a time. period : seconds between two looks at who needs and who has.
    reserve : share of its own blocks that a lender keeps free.
    """

    grain: int = 64
    period: float = 0.05
    reserve: float = 0.1

    def __post_init__(self) -> None:
        check(self.grain >= 1, "grain", self.grain, "at least 1 block")
        check(1e-6 <= self.period <= 1e8, "period", self.period, "seconds from 1e-6 to 1e8")
        check(0 <= self.reserve < 1, "reserve", self.reserve, "a share of at least 0 and below 1")
