"""KV memory of a rank as a counted pool of equal blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core import Request

if TYPE_CHECKING:
    from .freelist import Run


class BlockPool:
    """`total` blocks, of which `free` are in nobody's hands. `PrefixPool` also remembers what freed blocks hold."""

    __slots__ = ("free", "low", "total")

    caching = False  # whether blocks that hold the same prefix are shared

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

    def admit(self, request: Request) -> None:
        """Hand out `request.blocks`, less what is found in the cache; sets `request.computed` to the tokens found."""
        self.take(request.blocks)

    def cover(self, request: Request, tokens: int) -> None:
        """The first `tokens` tokens of a request are, or are about to be, in its blocks."""

    def release(self, request: Request, preempted: bool = False) -> None:
        """Take back `request.blocks`; who was preempted may find them again."""
        self.free += request.blocks

    def clear(self) -> None:
        """Everything is lost."""
        self.free = self.total

    def lookup(self, request: Request, promised: dict[int, int], taken: int = 0) -> tuple[int, int]:
        """(blocks of a waiting request in the cache, free blocks that using them takes) - see `PrefixPool`."""
        return 0, 0

    def path(self, request: Request) -> list[Run]:
        """The runs of a prompt that are in the cache - see `PrefixPool`."""
        return []

    def promise(self, request: Request, tokens: int, promised: dict[int, int]) -> None:
        """Note in `promised` what admitting a request with its first `tokens` tokens would put into the cache."""
