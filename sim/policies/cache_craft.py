"""Reuse policy: Cache-Craft (Agarwal et al., SIGMOD'25): several variants of a chunk, by what stood before it.

Source: arXiv 2502.15734, whose score weighs attention; ours is the share of a variant's predecessors that stand before
the chunk now. A chunk whose predecessors are all there needs no recomputation, one with none of them `recompute` of
it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...configs.strict import check
from .cacheblend import CacheBlend

if TYPE_CHECKING:
    from ..keep.reuse import Piece


@dataclass
class CacheCraft(CacheBlend):
    """recompute : share of a chunk's tokens that stands among strangers. variants : kept of each chunk."""

    recompute: float = 0.3
    variants: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.variants >= 1, "variants", self.variants, "at least 1")
        self._contexts: dict[int, list[frozenset[int]]] = {}

    def reused(self, piece: Piece) -> float:
        """By the variant that fits best."""
        if piece.id not in self._store:
            return 0.0
        here = set(piece.before)
        fit = max(len(context & here) / len(context) if context else 1.0 for context in self._contexts[piece.id])
        return (piece.tokens - piece.cached) * (1 - self.recompute * (1 - fit))

    def observe(self, piece: Piece) -> None:
        """A new variant drives the oldest out."""
        super().observe(piece)
        contexts, here = self._contexts.setdefault(piece.id, []), frozenset(piece.before)
        if here not in contexts:
            contexts.append(here)
            del contexts[: -self.variants]
