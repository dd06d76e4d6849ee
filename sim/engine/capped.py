"""A cohort whose members stop taking KV blocks once they have outgrown what the cache keeps of a request."""

from __future__ import annotations

from heapq import heappop, heappush

from ..core import Limits, Request
from .cohort import Cohort


class CappedCohort(Cohort):
    """As `Cohort`; a member that has outgrown the limit leaves the ring, and no leap goes beyond that run.

    `ripe` is a heap of (run after which a member takes no more blocks, index, member); stale entries are skipped.
    """

    __slots__ = ("grown", "outgrown", "ripe")

    def __init__(self, limits: Limits, grows: bool) -> None:
        super().__init__(limits, grows)
        self.outgrown = limits.outgrown
        self.grown: set[Request] = set()  # members that take no more blocks
        self.ripe: list[tuple[int, int, Request]] = []

    def join(self, request: Request, context: int, remaining: int, token_time: int, since: int = -1) -> None:
        """Take in a request; see `Cohort.join`."""
        super().join(request, context, remaining, token_time, since)
        if self.grows:
            if context >= self.outgrown:
                self._outgrow(request)
            else:
                heappush(self.ripe, (self.outgrown - request.base, request.index, request))

    def leave(self, request: Request) -> None:
        """Let a member go; see `Cohort.leave`."""
        if request in self.grown:
            self.grown.remove(request)
            self.ring[request.base % self.block_size] += 1
        super().leave(request)

    def _outgrow(self, request: Request) -> None:
        if request not in self.grown:  # one that has left and come back may be in the heap twice
            self.grown.add(request)
            self.ring[request.base % self.block_size] -= 1

    def _next_ripe(self) -> tuple[int, int, Request] | None:
        ripe = self.ripe
        while ripe:
            run, _, request = ripe[0]
            if request.cohort is self and self.outgrown - request.base == run > self.runs:
                return ripe[0]
            heappop(ripe)
        return None

    def next_finish(self) -> int:
        """Runs until the next member has its last token, or needs no further block."""
        ripe = self._next_ripe()
        finish = super().next_finish()
        return finish if ripe is None else min(finish, ripe[0] - self.runs)

    def demand(self, runs: int = 1) -> int:
        """Blocks that the next `runs` runs take, no member outgrowing the limit before the last of them."""
        need = super().demand(runs)
        return need - len(self.grown) * (runs // self.block_size) if runs > 1 else need

    def run(self, k: int, start: int, total: int, pure: int, host: int) -> None:
        """Credit k iterations; see `Cohort.run`."""
        super().run(k, start, total, pure, host)
        ripe = self.ripe
        while ripe and ripe[0][0] <= self.runs:
            run, _, request = heappop(ripe)
            if request.cohort is self and self.outgrown - request.base == run:
                self._outgrow(request)
