"""The KV memory of a rank in which LoRA adapters have pages too, as in S-LoRA's unified pool."""

from __future__ import annotations

from collections.abc import Sequence

from ..core import Request
from .pool import BlockPool


class AdapterPool(BlockPool):
    """KV blocks of which adapters in use take some; those that nobody uses stay until their room is needed.

    It speaks to policies as a prefix cache does: `lookup` says how many free blocks a request's adapter would take.
    blocks_of : by adapter.
    """

    __slots__ = ("_blocks_of", "_idle", "_idle_blocks", "_users", "fetched")

    caching = True

    def __init__(self, total: int, blocks_of: Sequence[int]) -> None:
        super().__init__(total)
        self._blocks_of = blocks_of
        self._users: dict[int, int] = {}  # adapter -> requests that hold it
        self._idle: dict[int, None] = {}  # resident and not in use, least recently used first
        self._idle_blocks = 0  # of these; they count as free
        self.fetched: list[Request] = []  # whose adapter had to be fetched, since anybody looked

    def resident(self, adapter: int) -> bool:
        """Whether an adapter is on the device."""
        return adapter in self._users or adapter in self._idle

    def take(self, blocks: int) -> None:
        """Hand out some; idle adapters go where there is no other room."""
        super().take(blocks)
        while self._idle_blocks > self.free:
            oldest = next(iter(self._idle))
            del self._idle[oldest]
            self._idle_blocks -= self._blocks_of[oldest]

    def admit(self, request: Request) -> None:
        """Hand out a request's blocks and, if nobody else uses it, its adapter's."""
        adapter = request.adapter
        if adapter >= 0:
            if adapter not in self._users:
                blocks = self._blocks_of[adapter]
                if adapter in self._idle:
                    del self._idle[adapter]
                    self._idle_blocks -= blocks
                else:
                    self.fetched.append(request)
                self.take(blocks)
            self._users[adapter] = self._users.get(adapter, 0) + 1
        self.take(request.blocks)

    def release(self, request: Request, preempted: bool = False) -> None:
        """Take blocks back; an adapter that nobody uses any more stays for the time being."""
        super().release(request)
        adapter = request.adapter
        if adapter >= 0:
            self._users[adapter] -= 1
            if not self._users[adapter]:
                del self._users[adapter]
                self._idle[adapter] = None
                self._idle_blocks += self._blocks_of[adapter]
                self.free += self._blocks_of[adapter]

    def clear(self) -> None:
        """Everything is lost."""
        super().clear()
        self._users, self._idle, self._idle_blocks, self.fetched = {}, {}, 0, []

    def lookup(self, request: Request, promised: dict[int, int], taken: int = 0) -> tuple[int, int]:
        """(0, free blocks that the request's adapter takes)."""
        adapter = request.adapter
        held = adapter < 0 or adapter in self._users or ~adapter in promised
        return 0, 0 if held else self._blocks_of[adapter]

    def promise(self, request: Request, tokens: int, promised: dict[int, int]) -> None:
        """A request is admitted, and so is its adapter."""
        promised[~request.adapter] = 1
