"""Swap space: an engine's host memory for requests that have given way, and what copies to and from it cost.

One call copies blocks that are neighbours, so a copy takes latency x groups + bytes / bandwidth. Where copies are kept,
a request that comes back leaves its full blocks on the host as well, for nothing is ever written into those again: when
it has to go once more, only what is newer is copied. Kept copies make room for whoever is out, the oldest first.
Source: FastSwitch (2024), block groups and KV cache reuse; with groups of one block and nothing kept, vLLM v0.
"""

from __future__ import annotations

from ..core import Limits, Request
from .store import TierStore


class SwapSpace:
    """blocks : capacity. group : neighbouring blocks that one call moves. latency, each : ticks of a call, and of each
    block in it. keeps : whether copies are kept. overlaps : whether an iteration runs beside its copies, by layers.

    free : blocks that nobody who is out has; kept copies are in some of them.
    copying : ticks of copies since the last iteration began. out, back, spared : blocks copied to the host and from it,
    and those that were there already.
    """

    def __init__(
        self, blocks: int = 0, group: int = 1, latency: int = 0, each: int = 0, keeps: bool = False,
        overlaps: bool = False,
    ) -> None:  # fmt: skip
        self.blocks = self.free = blocks
        self.keeps, self.overlaps = keeps, overlaps
        self.copying = 0
        self.out = self.back = self.spared = 0
        self._group, self._latency, self._each = group, latency, each
        self._kept = TierStore(blocks)

    def ticks(self, blocks: int) -> int:
        """To copy so many blocks one way."""
        return -(-blocks // self._group) * self._latency + blocks * self._each

    def take_in(self, request: Request) -> bool:
        """Copy what a victim has and the host lacks; False where it does not fit."""
        if request.blocks > self.free:
            return False
        kept = min(self._kept.drop(request.index), request.blocks)
        new = request.blocks - kept
        self.out += new
        self.spared += kept
        self.copying += self.ticks(new)
        self._resize(self.free - request.blocks)
        return True

    def give_back(self, request: Request, limits: Limits) -> None:
        """Copy all that a request has to the device."""
        self.back += request.blocks
        self.copying += self.ticks(request.blocks)
        self.let_go(request)
        if self.keeps and request.computed <= limits.outgrown:  # beyond, the cache writes over what it had
            self._kept.put([(request.index, request.computed // limits.block_size)])

    def let_go(self, request: Request) -> None:
        """Forget what somebody who is out has here."""
        self._resize(self.free + request.blocks)

    def forget(self, request: Request) -> None:
        """Its kept copies are of no use any more."""
        self._kept.drop(request.index)

    def clear(self) -> None:
        """Everything is lost."""
        self._kept = TierStore(self.blocks)
        self.free, self.copying = self.blocks, 0

    def begin(self) -> int:
        """An iteration is about to begin: ticks of the copies it waits for, or runs beside."""
        copying, self.copying = self.copying, 0
        return copying

    def _resize(self, free: int) -> None:
        self.free = free
        self._kept.resize(free)
