"""One tier below one engine's device: a store, and the links to it."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, inf

from ...configs.tiers import Tier
from ...costmodels.base import ticks
from ..cluster.links import Link
from ..kv.store import TierStore

Path = Sequence[Link]


class Level:
    """One tier of one engine: its store, which others may share, and its links.

    paths : the links to the device, and from it. block : bytes of a KV block there. share : the engine's replica holds
    the keys k with k % share[1] == share[0].
    """

    def __init__(
        self, spec: Tier, store: TierStore, paths: tuple[Path, Path], block: float,
        share: tuple[int, int] | None = None,
    ) -> None:  # fmt: skip
        self.spec = spec
        self.store = store
        self.up, self.down = paths
        self.share = share
        self._latency = ticks(spec.latency)
        self._call = spec.group * block if spec.group else inf

    def latency(self, size: float) -> int:
        """Ticks of the calls that move so many bytes."""
        return self._latency * max(1, ceil(size / self._call))
