"""KV caches of retrieved chunks, reused wherever the chunk stands in a prompt, with some of their tokens computed
again.

A reused token is one that the engine need not compute; its memory is the request's own, for its position and context
are. The prefix cache comes first; what it has needs no reuse. Loading from the chunk store goes on layer by layer
beside the prefill of the rest: a request waits, outside the batch, for what does not hide behind it (CacheBlend's
max(recompute, load) a layer), and that is its `transfer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from ...costmodels.base import prompt_seconds, ticks
from ...traces.chunks import Chunks
from ..cluster.cluster import Cluster
from ..core import Request, Step
from ..records import End
from .pins import Pins


class Piece(NamedTuple):
    """A chunk of a prompt: its id, its tokens, the ids before it, and how many of its tokens the prefix cache has."""

    id: int
    tokens: int
    before: tuple[int, ...]
    cached: int


class ReusePolicy(Protocol):
    """Says how many tokens of a chunk need not be computed. Its state changes in `observe` only.

    bandwidth : bytes/s at which stored chunks come, None = at once.
    """

    bandwidth: float | None

    def reused(self, piece: Piece) -> float:
        """Tokens of a chunk, beyond those in the prefix cache, that are not computed; 0 = it is not stored."""
        ...

    def observe(self, piece: Piece) -> None:
        """A request with this chunk has been served."""
        ...


class Reuse:
    """Finds out what each request reuses when it would first be admitted, and sends it to wait for what must be loaded.

    It is the `engine` of requests that wait. token_bytes, layers : of the model, by engine.
    """

    def __init__(
        self, cluster: Cluster, policy: ReusePolicy, chunks: Chunks, token_bytes: dict[Any, float],
        layers: dict[Any, int],
    ) -> None:  # fmt: skip
        self.cluster, self.policy, self._chunks = cluster, policy, chunks
        self._token_bytes, self._layers = token_bytes, layers
        self._looked: dict[int, tuple[Any, int]] = {}  # live requests -> engine and its epoch where they were looked up
        self._away: dict[Request, tuple[Pins, int]] = {}  # and since when
        cluster.on_end.append(self._ended)

    def _pieces(self, request: Request, cached: int) -> list[Piece]:
        pieces: list[Piece] = []
        before: list[int] = []
        at = 0
        for id_, tokens, _ in self._chunks.row(request.row):
            pieces.append(Piece(id_, tokens, tuple(before), min(tokens, max(0, cached - at))))
            before.append(id_)
            at += tokens
        return pieces

    def _ended(self, request: Request, end: End, now: int) -> None:
        self._looked.pop(request.index, None)
        if end == End.FINISHED:
            for piece in self._pieces(request, 0):
                self.policy.observe(piece)

    def intercept(self, pins: Pins, step: Step) -> bool:
        """A step would admit requests: True if that is to be thought over, one of them now reusing something."""
        here = pins.engine, pins.rank.epoch
        for request, _, _ in step.admit:
            if self._looked.get(request.index) != here:
                self._looked[request.index] = here
                if self._begin(pins, request):
                    return True
        return False

    def _begin(self, pins: Pins, request: Request) -> bool:
        rank, engine = pins.rank, pins.engine
        request.reused = 0
        cached = rank.lookup(request, {})[0] * rank.limits.block_size
        reused = sum(self.policy.reused(piece) for piece in self._pieces(request, cached))
        request.reused = int(reused)
        if request.reused < rank.limits.block_size:
            return False
        wait = self._wait(engine, request, cached)
        if wait:
            rank.waiting.remove(request)
            request.engine = self
            self._away[request] = pins, rank.now
            self.cluster.post(rank.now + wait, self._loaded, request, rank.now)
        return True

    def _wait(self, engine: Any, request: Request, cached: int) -> int:
        """Ticks of loading that do not hide behind computing the rest: the first layer, or what is slower."""
        if self.policy.bandwidth is None:
            return 0
        load = request.reused * self._token_bytes[engine] / self.policy.bandwidth
        rest = max(1, request.target - cached - request.reused)
        share = 1 / self._layers[engine]
        compute = prompt_seconds(engine.cost, rest, cached + request.reused)
        return max(1, ticks(max(load * share, load - compute * (1 - share))))

    def _loaded(self, request: Request, since: int) -> None:
        pins, began = self._away.get(request, (None, 0))
        if pins and began == since:
            pins.engine.at_boundary(partial(self._return, request, since))

    def _return(self, request: Request, since: int, now: int) -> bool:
        pins, began = self._away.get(request, (None, 0))
        if pins and began == since:
            del self._away[request]
            request.engine = pins.engine
            request.loading += now - since
            pins.put_back(request)
        return True

    def crashed(self, engines: Sequence[Any]) -> list[Request]:
        """Engines have lost their memory, stored chunks are elsewhere. Returns the requests that waited there."""
        lost = [request for request, (pins, _) in self._away.items() if pins.engine in engines]
        for request in lost:
            del self._away[request]
        return lost

    def cancel(self, request: Request) -> None:
        """The client of a request that waits has gone."""
        del self._away[request]
        self.cluster.gone(request, self.cluster.env.now)

    def loadable(self, engine: Any, request: Request) -> tuple[int, float]:
        """Chunks are looked up when a request would be admitted, not before."""
        return 0, 0.0

    def seconds_of(self, engine: Any) -> None:
        """Chunks are no contexts: nothing is loaded back between turns."""
