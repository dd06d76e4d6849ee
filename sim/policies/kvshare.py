"""Reuse policy: KVShare as a hit model (arXiv 2503.16525): a request is like an old one with some probability.

Which requests are alike is a matter of their text, which a trace does not have: `hit` and `recompute` are given, and
the draws come from a stream of the run's seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...configs.strict import check

if TYPE_CHECKING:
    from ...traces.streams import Stream
    from ..keep.reuse import Piece


@dataclass
class KVShare:
    """hit : probability that a chunk has a semantic match. recompute : share of its tokens that deviate too much."""

    hit: float = 0.5
    recompute: float = 0.2
    bandwidth: float | None = None

    def __post_init__(self) -> None:
        for key in ("hit", "recompute"):
            check(0 <= getattr(self, key) <= 1, key, getattr(self, key), "a share from 0 to 1")
        check(self.bandwidth is None or self.bandwidth > 0, "bandwidth", self.bandwidth, "bytes/s above 0")

    def begin(self, stream: Stream) -> None:
        """The stream that says which chunks have a match."""
        self._key = int(stream.uniform(1)[0] * 2**53)

    def reused(self, piece: Piece) -> float:
        """The same chunk always has the same answer, whoever asks first."""
        matched = (piece.id * 0x9E3779B97F4A7C15 + self._key) % 2**61 / 2**61 < self.hit
        return (piece.tokens - piece.cached) * (1 - self.recompute) if matched else 0.0

    def observe(self, piece: Piece) -> None:
        """Nothing to note."""
