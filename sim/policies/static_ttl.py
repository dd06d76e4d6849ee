"""Retention policy: every turn that calls a tool is pinned for the same time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...configs.strict import check
from .blind_retention import BlindRetention

if TYPE_CHECKING:
    from ..keep.pins import Turn


@dataclass
class StaticTtl(BlindRetention):
    """seconds : the time to live. gives_way : to any head of the queue that does not fit."""

    seconds: float = 2.0
    gives_way: bool = False

    def __post_init__(self) -> None:
        check(self.seconds >= 0, "seconds", self.seconds, "0 or more")

    def ttl(self, turn: Turn) -> float:
        """Always."""
        return self.seconds
