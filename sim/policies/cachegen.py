"""Load policy: CacheGen's choice (Liu et al., SIGCOMM'24): stream a KV cache at a level that meets the deadline, or
compute it from its text, by the bandwidth that is there now.

Source: arXiv 2310.07240; the authors report 3.7 to 4.3 times fewer bytes than 8-bit KV caches at about equal quality.
The least compression that meets `deadline` wins; where none does, whatever is faster, the greatest or computing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from ...configs.strict import check
from ...errors import InputError

if TYPE_CHECKING:
    from ..keep.tiers import Found


@dataclass
class CacheGen:
    """deadline : seconds until the prefix is there. levels : how many times smaller than stored, ascending."""

    deadline: float = 1.0
    levels: tuple[float, ...] = (1.0, 2.0, 3.7, 4.3)

    def __post_init__(self) -> None:
        check(self.deadline > 0, "deadline", self.deadline, "seconds above 0")
        check(bool(self.levels) and self.levels[0] >= 1, "levels", self.levels, "numbers from 1 on")
        if any(b <= a for a, b in pairwise(self.levels)):
            raise InputError("levels", str(list(self.levels)), "ascending numbers")

    def compression(self, found: Found) -> float:
        """The level, 0 = compute."""
        for level in self.levels:
            if found.load(found.size / level) <= self.deadline:
                return level
        last = self.levels[-1]
        return last if found.load(found.size / last) < found.prefill(found.tokens, found.cached) else 0.0
