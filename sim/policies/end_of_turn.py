"""Retention policy: a KV cache ends with its turn, as in engines without prefix caching; the next one prefills it
all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .blind_retention import BlindRetention

if TYPE_CHECKING:
    from ..keep.pins import Turn


@dataclass
class EndOfTurn(BlindRetention):
    """Nothing is kept but what others use at that moment."""

    forgets = True
    gives_way = True

    def ttl(self, turn: Turn) -> float:
        """Never."""
        return 0.0
