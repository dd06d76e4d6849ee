"""What keeping a chain of cached blocks is worth, in the words of an eviction policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ...costmodels.base import CostModel, prompt_seconds


class EvictionPolicy(Protocol):
    """Says which cached blocks that nobody uses are forgotten first.

    by_age : least recently used first is all there is to it (`worth` is then not asked).
    """

    by_age: bool

    def worth(self, hits: int, tokens: int, floor: float, seconds: Callable[[int], float]) -> float:
        """What is evicted last has the greatest worth; of equals the least recently used goes first.

        hits : requests that have used a block, the one that computed it included.
        tokens : from the prompt's beginning to its end.
        floor : the worth of what was evicted last, for policies that age.
        seconds : predicted time to compute a prompt of so many tokens.
        Asked when a block's last user lets go.
        """
        ...


class Eviction:
    """An eviction policy at work on one engine, whose cost model prices what would have to be computed again."""

    def __init__(self, policy: EvictionPolicy, cost: CostModel) -> None:
        self._policy = policy
        self._cost = cost

    def worth(self, hits: int, tokens: int, floor: float) -> float:
        """What the policy gives for a chain of so many tokens that so many requests have used."""
        return self._policy.worth(hits, tokens, floor, self._seconds)

    def _seconds(self, tokens: int) -> float:
        return prompt_seconds(self._cost, tokens, 0)
