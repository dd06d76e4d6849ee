"""Where blocks lie: the simulator's counted KV pools, with the place in the cache of everything that they count.

The pools decide as they do in the simulator; these follow them and only say which block it was. Requests with the same
prefix then read the same blocks of the cache.
"""

from __future__ import annotations

from ..sim.core import Request
from ..sim.kv.freelist import Run
from ..sim.kv.pool import BlockPool
from ..sim.kv.prefix import PrefixPool


class Tables:
    """The places of requests' blocks. handed : what was taken and is in no table yet; any of it will do."""

    def __init__(self) -> None:
        self.handed: list[int] = []
        self._of: dict[Request, list[int]] = {}

    def begin(self, request: Request, places: list[int]) -> None:
        """A request that finds blocks in the cache."""
        self._of[request] = places

    def table(self, request: Request) -> list[int]:
        """The places of all of `request.blocks`, which must have been taken, in order."""
        table = self._of.setdefault(request, [])
        while len(table) < request.blocks:
            table.append(self.handed.pop())
        return table

    def end(self, request: Request) -> list[int]:
        """What a request leaves."""
        table = self.table(request)
        del self._of[request]
        return table


class PlacedPool(BlockPool):
    """A `BlockPool` that knows its blocks."""

    __slots__ = ("_spare", "tables")

    def __init__(self, total: int) -> None:
        super().__init__(total)
        self.clear()

    def clear(self) -> None:
        """Everything is lost."""
        super().clear()
        self.tables = Tables()
        self._spare = list(range(self.total - 1, -1, -1))

    def take(self, blocks: int) -> None:
        """Hand out some."""
        super().take(blocks)
        self.tables.handed += (self._spare.pop() for _ in range(blocks))

    def release(self, request: Request, preempted: bool = False) -> None:
        """Take them back."""
        self._spare += reversed(self.tables.end(request))
        super().release(request, preempted)


class PlacedPrefixPool(PrefixPool):
    """A `PrefixPool` that knows its blocks."""

    __slots__ = ("_places", "tables")

    @classmethod
    def like(cls, pool: PrefixPool) -> PlacedPrefixPool:
        """An empty one with the size, the prefix ids and the order of eviction of another."""
        return cls(pool.total, pool._block_size, pool._ids, pool._worth)

    def clear(self) -> None:
        """Everything is lost."""
        super().clear()
        self.tables = Tables()
        self._places: dict[Run, list[int]] = {}  # of cached and of free blocks: as many as the run has
        self._place(list(range(self.total)))

    def _place(self, free: list[int]) -> None:
        """`free` blocks have come to the free list, in a run whose places are not all known."""
        for run in self.free_runs():
            places = self._places.setdefault(run, [])
            while len(places) < run.cached:
                places.append(free.pop())
        assert not free

    def take(self, blocks: int) -> None:
        """Hand out those that go first."""
        left = blocks
        for run in self.free_runs():
            places = self._places[run]
            keep = max(0, run.cached - left)
            left -= run.cached - keep
            self.tables.handed += places[keep:]
            del places[keep:]
            if not keep:
                del self._places[run]
            if not left:
                break
        super().take(blocks)

    def admit(self, request: Request) -> None:
        """Begin its table with what was found."""
        holding = self._holding(request)
        own = holding.own if holding else None
        super().admit(request)
        table = [place for run in holding.held for place in self._places[run]] if holding else []
        if own and own.holders:
            table += self._places.pop(own)
        self.tables.begin(request, table[: request.computed // self._block_size])

    def cover(self, request: Request, tokens: int) -> None:
        """Note the places of what can be found from now on."""
        table = self.tables.table(request)
        super().cover(request, tokens)
        holding = request.holding
        for run in holding.held if holding else ():
            places = self._places.setdefault(run, [])
            first = holding.keys.index(run.key) * holding.span
            places += table[first + len(places) : first + run.cached]

    def release(self, request: Request, preempted: bool = False) -> None:
        """Let go of everything; what the pool goes on counting for its finders keeps its places."""
        if not preempted:
            self.commit(request)  # as the pool is about to, and before its books are closed
        table = self.tables.table(request)
        holding = request.holding
        first = holding.total if holding else 0
        free = set(table).difference(*(self._places[run] for run in holding.held)) if holding else set(table)
        super().release(request, preempted)
        self.tables.end(request)
        if request.holding and request.holding.own:
            own = request.holding.own
            self._places[own] = table[first : first + own.cached]
            free -= set(self._places[own])
        self._place(sorted(free))


Placed = PlacedPool | PlacedPrefixPool


def placed(pool: BlockPool) -> Placed:
    """An empty pool like this one that knows its blocks."""
    return PlacedPrefixPool.like(pool) if isinstance(pool, PrefixPool) else PlacedPool(pool.total)
