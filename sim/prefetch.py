"""Prefetching: what waits comes up to the fastest tier before its turn, from whichever slower tier has more of it.

As LMCache and SGLang's HiCache do with what lies below host memory. Fetches and loads share a tier's link fairly.
Whoever's turn comes while its fetch is under way waits for that outside the batch, and is then loaded like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from heapq import nsmallest
from itertools import chain
from typing import TYPE_CHECKING, Any

from .cluster import Cluster
from .core import Request
from .links import Network
from .pins import Pins

if TYPE_CHECKING:
    from .tiers import Level

Chain = Sequence[tuple[int, int]]


class Fetch:
    """A prefix on its way up. pins, since : of the engine where its request's turn has come meanwhile, and when."""

    __slots__ = ("parts", "pins", "since")

    def __init__(self, parts: Chain) -> None:
        self.parts = parts
        self.pins: Pins | None = None
        self.since = 0


class Prefetcher:
    """Looks at the first `ahead` requests of each queue, in order of arrival, when that changes.

    It is the `engine` of requests that wait for their fetch. size : (engine, tokens, level) -> bytes.
    """

    def __init__(
        self, cluster: Cluster, network: Network, ahead: int, levels: Mapping[Any, Sequence[Level]],
        size: Callable[[Any, int, Level], int],
    ) -> None:  # fmt: skip
        self.cluster, self.network, self.ahead = cluster, network, ahead
        self._levels, self._size = levels, size
        self._fetching: dict[Request, Fetch] = {}
        self._asked: set[int] = set()  # requests that have been looked up, while they are alive
        self.fetches = self.fetched_tokens = self.bytes_due = 0
        cluster.on_submit.append(lambda request: self.look_soon(request.engine))
        cluster.on_end.append(lambda request, end, now: self._asked.discard(request.index))

    def look_soon(self, engine: Any) -> None:
        """The queue of an engine has changed."""
        if engine in self._levels:
            self.cluster.post(self.cluster.env.now + 1, partial(self._look, engine))

    def _look(self, engine: Any) -> None:
        waiting = chain(engine.rank.waiting, engine.inbox)
        for request in nsmallest(self.ahead, waiting, key=lambda r: r.index):
            if request.index not in self._asked:
                self._asked.add(request.index)
                self._fetch(engine, request)

    def _fetch(self, engine: Any, request: Request) -> None:
        """Send for what a slower tier has of a prompt beyond the device and the fastest tier."""
        whole = engine.rank.pool.chain(request, request.target - 1)
        top, *below = self._levels[engine]
        here = max(_blocks(_prefix(whole, top)), engine.cached_now(request))
        level = max(below, key=lambda level: _blocks(_prefix(whole, level)))
        parts = _prefix(whole, level)
        if _blocks(parts) <= here:
            return
        new = sum(max(0, blocks - top.store.blocks(key)) for key, blocks in parts)
        tokens = new * engine.rank.limits.block_size
        size = self._size(engine, tokens, level)
        self.fetches += 1
        self.fetched_tokens += tokens
        self.bytes_due += size
        level.store.touch([key for key, _ in parts])
        self._fetching[request] = Fetch(parts)
        self.network.send((level.up,), size, level.latency(size), partial(self._arrived, request, top))

    def _arrived(self, request: Request, top: Level) -> None:
        fetch = self._fetching.pop(request)
        top.store.put(fetch.parts)
        if fetch.pins and not request.over:
            fetch.pins.engine.at_boundary(partial(self._return, request, fetch.pins, fetch.since))

    def awaits(self, pins: Pins, request: Request) -> bool:
        """The turn of a request has come: True if it has to wait for its fetch, and has left the queue for that."""
        fetch = self._fetching.get(request)
        if fetch is None:
            return False
        pins.rank.waiting.remove(request)
        request.engine, fetch.pins, fetch.since = self, pins, pins.rank.now
        return True

    def _return(self, request: Request, pins: Pins, since: int, now: int) -> bool:
        if not request.over:
            request.engine = pins.engine
            request.loading += now - since
            pins.put_back(request)
        return True

    def cancel(self, request: Request) -> None:
        """The client of a request that waits for its fetch has gone; what comes is kept for others."""
        self.cluster.gone(request, self.cluster.env.now)


def _prefix(whole: Chain, level: Level) -> list[tuple[int, int]]:
    """What a tier has of a chain, from its head on."""
    found: list[tuple[int, int]] = []
    for key, size in whole:
        here = min(size, level.store.blocks(key))
        if here:
            found.append((key, here))
        if here < size:
            break
    return found


def _blocks(parts: Chain) -> int:
    return sum(blocks for _, blocks in parts)
