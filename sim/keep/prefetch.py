"""Prefetching: what waits comes up to the fastest tier before its turn, from whichever slower tier has more of it.

As LMCache and SGLang's HiCache do with what lies below host memory. Fetches and loads share a tier's link fairly.
Whoever's turn comes while its fetch is under way waits for that outside the batch, and is then loaded like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from heapq import nsmallest
from itertools import chain
from typing import Any

from ..cluster.cluster import Cluster
from ..cluster.links import Flow, Network
from ..core import Request
from ..records import End
from .level import Level
from .pins import Pins

Chain = Sequence[tuple[int, int]]


class Fetch:
    """A prefix on its way up for `engine`. pins, since : of it, once its request's turn has come, and when."""

    __slots__ = ("engine", "flow", "parts", "pins", "since")

    def __init__(self, engine: Any, parts: Chain) -> None:
        self.engine, self.parts = engine, parts
        self.flow: Flow | None = None
        self.pins: Pins | None = None
        self.since = 0


class Prefetcher:
    """Looks at the first `ahead` requests of each queue, in order of arrival, when that changes.

    It is the `engine` of requests that wait for their fetch. size : (engine, tokens, compression) -> bytes.
    """

    def __init__(
        self, cluster: Cluster, network: Network, ahead: int, levels: Mapping[Any, Sequence[Level]],
        size: Callable[[Any, int, float], int],
    ) -> None:  # fmt: skip
        self.cluster, self.network, self.ahead = cluster, network, ahead
        self._levels, self._size = levels, size
        self._fetching: dict[Request, Fetch] = {}
        self._asked: dict[int, Any] = {}  # live requests -> engine where they were looked up
        self.fetches = self.fetched_tokens = self.bytes_due = 0
        cluster.on_submit.append(self._submitted)
        cluster.on_end.append(self._ended)

    def _submitted(self, request: Request) -> None:
        self.look_soon(request.engine, self.cluster.env.now)

    def _ended(self, request: Request, end: End, now: int) -> None:
        self._asked.pop(request.index, None)

    def look_soon(self, engine: Any, now: int) -> None:
        """The queue of an engine has changed."""
        if len(self._levels.get(engine, ())) > 1:  # who decodes may have one tier, or none
            self.cluster.post(now + 1, self._look, engine)

    def _look(self, engine: Any) -> None:
        waiting = chain(engine.rank.waiting, engine.inbox)
        for request in nsmallest(self.ahead, waiting, key=lambda r: r.index):
            if self._asked.get(request.index) is not engine:
                self._asked[request.index] = engine
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
        size = self._size(engine, tokens, level.spec.compression)
        self.fetches += 1
        self.fetched_tokens += tokens
        self.bytes_due += size
        level.store.touch([key for key, _ in parts])
        fetch = self._fetching[request] = Fetch(engine, parts)
        arrived = partial(self._arrived, request, top)
        fetch.flow = self.network.send(level.up, size, level.latency(size), arrived)

    def _arrived(self, request: Request, top: Level) -> None:
        fetch = self._fetching[request]
        fetch.flow = None
        top.store.put(fetch.parts)
        if fetch.pins and not request.over:
            fetch.engine.at_boundary(partial(self._return, request))
        else:
            del self._fetching[request]

    def awaits(self, pins: Pins, request: Request) -> bool:
        """The turn of a request has come: True if it has to wait for its fetch, and has left the queue for that."""
        fetch = self._fetching.get(request)
        if fetch is None or fetch.engine is not pins.engine:
            return False
        pins.rank.waiting.remove(request)
        request.engine, fetch.pins, fetch.since = self, pins, pins.rank.now
        return True

    def _return(self, request: Request, now: int) -> bool:
        fetch = self._fetching.pop(request)
        if fetch.pins and not request.over:
            request.engine = fetch.engine
            request.loading += now - fetch.since
            fetch.pins.put_back(request)
        return True

    def cancel(self, request: Request) -> None:
        """The client of a request that waits for its fetch has gone; what comes is kept for others."""
        self.cluster.gone(request, self.cluster.env.now)

    def crashed(self, engines: Sequence[Any]) -> list[Request]:
        """Engines have lost their memory: fetches for them stop. Returns the requests that waited for theirs."""
        lost = []
        for request, fetch in list(self._fetching.items()):
            if fetch.engine in engines:
                del self._fetching[request]
                if fetch.flow:
                    self.bytes_due -= fetch.flow.size - self.network.abort(fetch.flow)
                if fetch.pins and not request.over:
                    lost.append(request)
        return lost


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
