"""KV caches below the device: written as requests end or as the device evicts them, loaded before a request runs.

As with vLLM's connectors a load begins when the request would be admitted: it takes its blocks, waits at no cost to
the batch, and is back at the head of the queue when its KV cache has come (or, layer by layer, when the rest hides
behind its prefill). Transfers share links fairly; what a tier has is known when a transfer has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import ceil, inf
from typing import Any, NamedTuple, Protocol

from ..configs.tiers import Tier, Tiers
from ..costmodels.base import prompt_seconds, seconds, ticks
from .claim import Claim
from .cluster import Cluster
from .core import Request, Step
from .links import Flow, Link, Network
from .pins import Pin, Pins
from .prefetch import Prefetcher
from .records import End
from .tierstore import TierStore


class Found(NamedTuple):
    """A prefix below the device, as a load policy sees it.

    tokens : of it that are not on the device. cached : those before them that are. prompt : of the whole prompt.
    size : bytes to load. load : (bytes) -> predicted seconds on the tier's link as it is used now. prefill : (tokens,
    cached tokens) -> predicted seconds to compute them.
    """

    tokens: int
    cached: int
    prompt: int
    size: int
    load: Callable[[float], float]
    prefill: Callable[[int, int], float]


class LoadPolicy(Protocol):
    """Whether a KV cache is loaded."""

    def compression(self, found: Found) -> float:
        """How many times smaller it is sent (1 = as it is stored); 0 = not at all, it is computed again."""
        ...


class Level:
    """One tier of one engine: its store, which others may share, and its links. block : bytes of a KV block there."""

    def __init__(self, spec: Tier, store: TierStore, links: tuple[Link, Link], block: float) -> None:
        self.spec = spec
        self.store = store
        self.up, self.down = links  # to the device, and from it
        self._latency = ticks(spec.latency)
        self._call = spec.group * block if spec.group else inf

    def latency(self, size: float) -> int:
        """Ticks of the calls that move so many bytes."""
        return self._latency * max(1, ceil(size / self._call))


class Write:
    """What `engine` has computed, on its way to a tier."""

    __slots__ = ("chain", "engine", "epoch", "flow", "level")

    def __init__(self, engine: Any, level: Level, chain: Sequence[tuple[int, int]]) -> None:
        self.engine, self.level, self.chain = engine, level, chain
        self.epoch = engine.rank.epoch
        self.flow: Flow | None = None


class Load:
    """A request whose KV cache is on its way to `engine`."""

    __slots__ = ("claim", "flow", "over", "pins", "request", "since", "tokens")

    def __init__(self, pins: Pins, request: Request, claim: Claim, tokens: int) -> None:
        self.pins, self.request, self.claim, self.tokens = pins, request, claim, tokens
        self.since = pins.rank.now
        self.flow: Flow | None = None
        self.over = False


class Loader:
    """The tiers of all engines. It is the `engine` of requests whose KV cache is being loaded.

    token_bytes : of a KV cache, by engine. layers : of the model, likewise.
    """

    def __init__(
        self, cluster: Cluster, network: Network, spec: Tiers, policy: LoadPolicy,
        levels: Mapping[Any, Sequence[Level]], token_bytes: dict[Any, float], layers: dict[Any, int],
    ) -> None:  # fmt: skip
        self.cluster, self.network, self.spec, self.policy = cluster, network, spec, policy
        self._levels, self._token_bytes, self._layers = levels, token_bytes, layers
        self._looked: dict[int, tuple[Any, int]] = {}  # live requests -> engine and its epoch where they were looked up
        self.loads = self.writes = self.loaded_tokens = 0
        self.bytes_due = 0
        self._loading: dict[Request, Load] = {}
        self.prefetcher = Prefetcher(cluster, network, spec.prefetch, levels, self._bytes) if spec.prefetch else None
        self._writing: dict[Write, None] = {}
        for engine in levels:
            if any(level.spec.write == "back" for level in levels[engine]):
                engine.rank.pool.evicted = []
        cluster.on_end.append(self._ended)

    def seconds_of(self, engine: Any) -> Callable[[int], float]:
        """Predicted time to load so many tokens from an engine's fastest tier."""
        level = self._levels[engine][0]
        return lambda tokens: _seconds(level, self._bytes(engine, tokens, level))

    # -- writing -------------------------------------------------------------------------------------------------

    def _ended(self, request: Request, end: End, now: int) -> None:
        self._looked.pop(request.index, None)
        if end == End.FINISHED and request.engine in self._levels:
            self.computed(request.engine, request, now)

    def computed(self, engine: Any, request: Request, now: int) -> None:
        """A request has ended on an engine, or leaves it for its decode replica: write through what it has computed."""
        chain = engine.rank.pool.chain(request)
        for level in self._levels[engine]:
            if level.spec.write == "through":
                new = sum(max(0, blocks - level.store.blocks(key)) for key, blocks in chain)
                size = self._bytes(engine, new * engine.rank.limits.block_size, level)
                self.cluster.post(now + 1, self._write, Write(engine, level, chain), size)

    def _write(self, write: Write, size: int) -> None:
        if write.epoch != write.engine.rank.epoch:
            return
        self.writes += 1
        self.bytes_due += size
        self._writing[write] = None
        level = write.level
        write.flow = self.network.send((level.down,), size, level.latency(size), partial(self._written, write))

    def _written(self, write: Write) -> None:
        del self._writing[write]
        write.level.store.put(write.chain)

    def _bytes(self, engine: Any, tokens: int, level: Level) -> int:
        return round(self._token_bytes[engine] * tokens / level.spec.compression)

    def _take_evicted(self, engine: Any) -> None:
        """What the device has evicted since it was last asked goes to the first tier that is written back."""
        pool = engine.rank.pool
        level = next((level for level in self._levels[engine] if level.spec.write == "back"), None)
        if level is not None and pool.evicted:
            evicted, pool.evicted = pool.evicted, []
            size = self._bytes(engine, sum(n for _, n in evicted) * engine.rank.limits.block_size, level)
            self.network.book((level.down,), size)
            self.bytes_due += size
            for run in evicted:
                level.store.put([run])

    # -- loading -------------------------------------------------------------------------------------------------

    def intercept(self, pins: Pins, step: Step) -> bool:
        """A step would admit requests: True if one of them is sent to load its KV cache first."""
        ahead = self.prefetcher
        if ahead:
            ahead.look_soon(pins.engine, pins.rank.now)
        here = pins.engine, pins.rank.epoch
        for request, _, _ in step.admit:
            if ahead and ahead.awaits(pins, request):
                return True
            if self._looked.get(request.index) != here and request.engine is pins.engine:
                self._looked[request.index] = here
                if self._begin(pins, request):
                    return True
        return False

    def _begin(self, pins: Pins, request: Request) -> bool:
        engine, rank = pins.engine, pins.rank
        self._take_evicted(engine)
        size = rank.limits.block_size
        cached = rank.lookup(request, {})[0]
        level, blocks = self._find(engine, request, cached)
        blocks = min(blocks, (request.target - 1) // size)
        if level is None or blocks <= cached:
            return False
        tokens = (blocks - cached) * size
        stored = self._bytes(engine, tokens, level)
        found = Found(
            tokens,
            cached * size,
            request.target,
            stored,
            partial(_seconds, level),
            partial(prompt_seconds, engine.cost),
        )
        compression = self.policy.compression(found)
        claim = Claim.reserve(engine, request, blocks * size) if compression else None
        if claim is None:
            return False
        rank.waiting.remove(request)
        request.engine = self
        load = self._loading[request] = Load(pins, request, claim, blocks * size)
        self.loads += 1
        self.loaded_tokens += tokens
        bytes_ = round(stored / compression)
        hidden = self._hidden(engine, request.target - blocks * size, blocks * size, bytes_, level)
        self.cluster.post(rank.now + 1, self._send, load, level, bytes_, hidden)
        return True

    def _find(self, engine: Any, request: Request, cached: int) -> tuple[Level | None, int]:
        """The tier that has most of a prompt's prefix, the faster one of equals, and the blocks of it."""
        chain = engine.rank.pool.chain(request, request.prompt_tokens)
        best: tuple[Level | None, int] = (None, cached)
        for level in self._levels[engine]:
            blocks = before = 0
            for key, size in chain:
                # What the device has need not be below it.
                here = size if before + size <= cached else min(size, level.store.blocks(key))
                blocks += here
                before += size
                if here < size:
                    break
            if blocks > best[1]:
                best = (level, blocks)
        if best[0] is not None:
            best[0].store.touch([key for key, _ in chain])
        return best

    def _hidden(self, engine: Any, tokens: int, cached: int, size: int, level: Level) -> int:
        """Bytes of a load that can come while the prompt's rest is computed: all but the first layer's."""
        if self.spec.overlap == "serial":
            return 0
        layers = self._layers[engine]
        behind = prompt_seconds(engine.cost, tokens, cached) * (layers - 1) / layers * level.up.capacity
        return min(int(behind), size - size // layers)

    def _send(self, load: Load, level: Level, size: int, hidden: int) -> None:
        if load.over:
            return
        self.bytes_due += size
        self.network.book((level.up,), hidden)
        load.flow = self.network.send((level.up,), size - hidden, level.latency(size), partial(self._arrived, load))

    def _arrived(self, load: Load) -> None:
        load.flow = None
        load.pins.engine.at_boundary(partial(self._return, load))

    def _return(self, load: Load, now: int) -> bool:
        """Its KV cache has come: back to the head of the queue."""
        request, pins = load.request, load.pins
        if not load.over:
            del self._loading[request]
            pins.rank.pool.cover(load.claim.keeper, load.tokens)
            pins.hold(Pin(None, load.claim, request))
            request.engine = pins.engine
            request.loading += now - load.since
            pins.put_back(request)
        return True

    # -- other ends ----------------------------------------------------------------------------------------------

    def cancel(self, request: Request) -> None:
        """The client of a request that is being loaded has gone."""
        self._stop(request).claim.release_soon()
        self.cluster.gone(request, self.cluster.env.now)

    def _stop(self, request: Request) -> Load:
        load = self._loading.pop(request)
        load.over = True
        self._abort(load)
        return load

    def _abort(self, transfer: Load | Write) -> None:
        if transfer.flow:
            self.bytes_due -= transfer.flow.size - self.network.abort(transfer.flow)

    def crashed(self, engines: Sequence[Any]) -> list[Request]:
        """Engines have lost their memory and the tiers of their own. Returns the requests that were away from them."""
        lost = [load.request for load in self._loading.values() if load.pins.engine in engines]
        for request in lost:
            self._stop(request)
        if self.prefetcher:
            lost += self.prefetcher.crashed(engines)
        for write in [write for write in self._writing if write.engine in engines]:
            del self._writing[write]
            self._abort(write)
        for engine in engines:
            engine.rank.pins.clear()
            if engine.rank.pool.evicted:
                engine.rank.pool.evicted = []
            for level in self._levels[engine]:
                if not level.spec.shared:
                    level.store.clear()
        return lost


def _seconds(level: Level, size: float) -> float:
    """To load so many bytes, were the link shared with those that use it now."""
    return size * (len(level.up.flows) + 1) / level.up.capacity + seconds(level.latency(size))
