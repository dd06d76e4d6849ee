"""Reuse policy: CacheBlend (Yao et al., EuroSys'25): stored chunks are used anywhere, a share of their tokens computed
again.

Source: arXiv 2405.16444. Which tokens are computed is chosen by their deviation; here only how many matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from ...configs.strict import check
from .chunk_store import ChunkStore

if TYPE_CHECKING:
    from ..keep.reuse import Piece


@dataclass
class CacheBlend:
    """recompute : share of a chunk's tokens. capacity : tokens of the store. bandwidth : bytes/s, None = at once."""

    recompute: float = 0.15
    capacity: float = inf
    bandwidth: float | None = None

    def __post_init__(self) -> None:
        check(0 <= self.recompute <= 1, "recompute", self.recompute, "a share from 0 to 1")
        check(self.capacity > 0, "capacity", self.capacity, "tokens above 0")
        check(self.bandwidth is None or self.bandwidth > 0, "bandwidth", self.bandwidth, "bytes/s above 0")
        self._store = ChunkStore(self.capacity)

    def reused(self, piece: Piece) -> float:
        """All but the share, where the chunk is stored."""
        return (piece.tokens - piece.cached) * (1 - self.recompute) if piece.id in self._store else 0.0

    def observe(self, piece: Piece) -> None:
        """It is stored, or used once more."""
        self._store.put(piece.id, piece.tokens)
