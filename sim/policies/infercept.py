"""Retention policy: InferCept's rule of least waste (Abhyankar et al., ICML'24).

While a tool runs, its context of C tokens is preserved as long as that wastes less memory x time than having it back
would. Preserving wastes (elapsed time) C. Discarding and computing again in n chunks wastes T(C) C / 2 + n T(C / n)
C_o, C_o being the contexts that wait meanwhile; swapping out and in, 2 T_swap(C) C_o. The elapsed time is the authors'
estimate of the time to come, so the rule is a time to live: the lesser of the two, over C. What can be swapped while
one iteration runs is swapped at once, as by their budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...configs.strict import check
from .blind_retention import BlindRetention

if TYPE_CHECKING:
    from ..keep.pins import Turn


@dataclass
class Infercept(BlindRetention):
    """chunk : tokens of a chunk of recomputation."""

    chunk: int = 2048
    gives_way: bool = False

    def __post_init__(self) -> None:
        check(self.chunk >= 1, "chunk", self.chunk, "at least 1 token")

    def ttl(self, turn: Turn) -> float:
        """Until preserving has wasted as much as the alternative would."""
        if turn.load is not None and turn.load(turn.context) <= turn.prefill(1, turn.others):
            return 0.0
        chunks = -(-turn.context // self.chunk)
        share = turn.others / turn.context
        again = turn.prefill(turn.context, 0) / 2 + chunks * turn.prefill(-(-turn.context // chunks), 0) * share
        if turn.load is None:
            return again
        return min(again, 2 * turn.load(turn.context) * share)
