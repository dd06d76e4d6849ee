"""KV memory of a rank as a counted pool of equal blocks."""

from __future__ import annotations


class BlockPool:
    """`total` blocks, of which `free` are in nobody's hands."""

    __slots__ = ("free", "low", "total")

    def __init__(self, total: int) -> None:
        self.total = total
        self.free = total
        self.low = total  # the fewest that were ever free, for the invariants

    def take(self, blocks: int) -> None:
        """Hand out some. Asking for more than are free is the engine's mistake, not a policy's choice."""
        self.free -= blocks
        if self.free < self.low:
            self.low = self.free
            assert self.free >= 0, f"{-self.free} KV blocks short"

    def give(self, blocks: int) -> None:
        """Take some back."""
        self.free += blocks
