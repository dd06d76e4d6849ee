"""KV caches below the device: written as requests end or as the device evicts them, loaded before a request runs.

As with vLLM's connectors a load begins when the request would be admitted: it takes its blocks, waits at no cost to
the batch, and is back at the head of the queue when its KV cache has come (or, layer by layer, when the rest hides
behind its prefill). Transfers share links fairly; what a tier has is known when a transfer has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from ...configs.tiers import Tiers
from ...costmodels.base import prompt_seconds, seconds, ticks
from ..cluster.claim import Claim
from ..cluster.cluster import Cluster
from ..cluster.links import Flow, Network
from ..core import Request, Step
from ..records import End
from .level import Level, Path
from .peers import Peers
from .pins import Pin, Pins, pins_of
from .prefetch import Prefetcher


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


class Source(NamedTuple):
    """Where more of a prefix is than on the device, `blocks` in all: a tier, or another engine `delay` ticks away."""

    blocks: int
    path: Path
    level: Level | None = None
    engine: Any = None
    delay: int = 0

    @property
    def compression(self) -> float:
        """How many times smaller a KV cache is there and on the way."""
        return self.level.spec.compression if self.level else 1.0

    def latency(self, size: float) -> int:
        """Ticks that so many bytes take besides their time on the links."""
        return self.level.latency(size) if self.level else self.delay

    def seconds(self, size: float) -> float:
        """To load so many bytes, were each link shared with those that use it now."""
        slowest = max((size * (len(link.flows) + 1) / link.capacity for link in self.path), default=0.0)
        return slowest + seconds(self.latency(size))


class Write:
    """What `engine` has computed, on its way to a tier."""

    __slots__ = ("chain", "engine", "epoch", "flow", "level")

    def __init__(self, engine: Any, level: Level, chain: Sequence[tuple[int, int]]) -> None:
        self.engine, self.level, self.chain = engine, level, chain
        self.epoch = engine.rank.epoch
        self.flow: Flow | None = None


class Load:
    """A request whose KV cache is on its way to an engine. cached, tokens : of it there before and after."""

    __slots__ = ("cached", "claim", "flow", "over", "pins", "request", "since", "source", "tokens")

    def __init__(
        self, pins: Pins, request: Request, claim: Claim, source: Source, cached: int, tokens: int
    ) -> None:  # fmt: skip
        self.pins, self.request, self.claim, self.source = pins, request, claim, source
        self.cached, self.tokens = cached, tokens
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
        peers: Peers | None = None,
    ) -> None:  # fmt: skip
        self.cluster, self.network, self.spec, self.policy = cluster, network, spec, policy
        self._levels, self._token_bytes, self._layers, self._peers = levels, token_bytes, layers, peers
        self._looked: dict[int, tuple[Any, int]] = {}  # live requests -> engine and its epoch where they were looked up
        self.loads = self.writes = self.copies = self.loaded_tokens = 0  # copies : loads from other replicas
        self.bytes_due = 0
        self._loading: dict[Request, Load] = {}
        self.prefetcher = Prefetcher(cluster, network, spec.prefetch, levels, self._bytes) if spec.prefetch else None
        self._writing: dict[Write, None] = {}
        for engine in levels:
            if any(level.spec.write == "back" for level in levels[engine]):
                engine.rank.pool.evicted = []
        cluster.on_end.append(self._ended)
        if peers:
            cluster.on_submit.append(peers.note)

    def seconds_of(self, engine: Any) -> Callable[[int], float] | None:
        """Predicted time to load so many tokens from an engine's fastest tier, None where it has none."""
        if not self._levels[engine]:
            return None
        source = Source(0, self._levels[engine][0].up, self._levels[engine][0])
        return lambda tokens: source.seconds(self._bytes(engine, tokens, source.compression))

    # -- writing -------------------------------------------------------------------------------------------------

    def _ended(self, request: Request, end: End, now: int) -> None:
        self._looked.pop(request.index, None)
        if self._peers:
            self._peers.forget(request)
        if end == End.FINISHED and request.engine in self._levels:
            self.computed(request.engine, request, now)
        pins = pins_of(request)
        if pins and end != End.FINISHED:  # it may have been loaded and waited for its turn
            pins.left(request)

    def computed(self, engine: Any, request: Request, now: int) -> None:
        """A request has ended on an engine, or leaves it for its decode replica: write through what it has computed."""
        chain = engine.rank.pool.chain(request)
        for level in self._levels[engine]:
            if level.spec.write == "through":
                new = sum(max(0, blocks - level.store.blocks(key)) for key, blocks in chain)
                size = self._bytes(engine, new * engine.rank.limits.block_size, level.spec.compression)
                self.cluster.post(now + 1, self._write, Write(engine, level, chain), size)

    def _write(self, write: Write, size: int) -> None:
        if write.epoch != write.engine.rank.epoch:
            return
        self.writes += 1
        self.bytes_due += size
        self._writing[write] = None
        level = write.level
        write.flow = self.network.send(level.down, size, level.latency(size), partial(self._written, write))

    def _written(self, write: Write) -> None:
        del self._writing[write]
        write.level.store.put(write.chain)

    def _bytes(self, engine: Any, tokens: int, compression: float) -> int:
        return round(self._token_bytes[engine] * tokens / compression)

    def _take_evicted(self, engine: Any) -> None:
        """What the device has evicted since it was last asked goes to the first tier that is written back."""
        pool = engine.rank.pool
        level = next((level for level in self._levels[engine] if level.spec.write == "back"), None)
        if level is not None and pool.evicted:
            evicted, pool.evicted = pool.evicted, []
            tokens = sum(n for _, n in evicted) * engine.rank.limits.block_size
            size = self._bytes(engine, tokens, level.spec.compression)
            self.network.book(level.down, size)
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
        cached = rank.lookup(request, {})[0]
        source, found, compression = self._offer(engine, request, cached)
        if source is None or found is None or not compression:
            return False
        tokens = found.cached + found.tokens
        claim = Claim.reserve(engine, request, tokens)
        if claim is None:
            return False
        if source.level:
            source.level.store.touch([key for key, _ in rank.pool.chain(request, request.prompt_tokens)])
        rank.waiting.remove(request)
        request.engine = self
        load = self._loading[request] = Load(pins, request, claim, source, found.cached, tokens)
        self.loads += 1
        self.copies += source.engine is not None
        self.loaded_tokens += found.tokens
        self.cluster.post(rank.now + 1, self._send, load, found.size / compression)
        return True

    def loadable(self, engine: Any, request: Request) -> tuple[int, float]:
        """Tokens of a prompt that would be loaded for an engine now, and the predicted seconds of waiting for them; for
        who looks from outside."""
        if self._peers:
            self._peers.note(request, engine)
        source, found, compression = self._offer(engine, request, engine.cached_now(request))
        if source is None or found is None or not compression:
            return 0, 0.0
        size = round(found.size / compression)
        reached = found.cached + found.tokens
        return found.tokens, source.seconds(size - self._hidden(engine, found.prompt - reached, reached, size, source))

    def _offer(self, engine: Any, request: Request, cached: int) -> tuple[Source | None, Found | None, float]:
        """The best source of a prompt's prefix beyond `cached` blocks, what is there, and the policy's word on it."""
        size = engine.rank.limits.block_size
        source = self._find(engine, request, cached)
        blocks = min(source.blocks, (request.target - 1) // size) if source else 0
        if source is None or blocks <= cached:
            return None, None, 0.0
        tokens = (blocks - cached) * size
        found = Found(
            tokens, cached * size, request.target, self._bytes(engine, tokens, source.compression),
            source.seconds, partial(prompt_seconds, engine.cost),
        )  # fmt: skip
        return source, found, self.policy.compression(found)

    def _find(self, engine: Any, request: Request, cached: int) -> Source | None:
        """Who has most of a prompt's prefix: of equals the faster tier, and tiers before other replicas."""
        chain = engine.rank.pool.chain(request, request.prompt_tokens)
        best, most = None, cached
        for level in self._levels[engine]:
            blocks = before = 0
            for key, size in chain:
                # What the device has need not be below it.
                here = size if before + size <= cached else min(size, level.store.blocks(key))
                blocks += here
                before += size
                if here < size:
                    break
            if blocks > most:
                best, most = Source(blocks, level.up, level), blocks
        peer, blocks = self._peers.noted(request) if self._peers else (engine, 0)
        if self._peers and blocks > most and peer is not engine:
            path, delay = self._peers.path(peer, engine)
            best = Source(blocks, path, engine=peer, delay=delay)
        return best

    def _hidden(self, engine: Any, tokens: int, cached: int, size: int, source: Source) -> int:
        """Bytes of a load that can come while the prompt's rest is computed: all but the first layer's."""
        if self.spec.overlap == "serial" or not source.path:
            return 0
        layers = self._layers[engine]
        behind = prompt_seconds(engine.cost, tokens, cached) * (layers - 1) / layers
        until = self.cluster.env.now + ticks(behind)
        return min(int(self.network.unnoticed(source.path, behind, until)), size - size // layers)

    def _send(self, load: Load, size: float) -> None:
        if load.over:
            return
        source, engine = load.source, load.pins.engine
        if source.engine is not None:  # its cache may have lost some of it since
            there = source.engine.cached_now(load.request) * engine.rank.limits.block_size
            if there <= load.cached:
                self._return_soon(load, load.cached)
                return
            whole, load.tokens = load.tokens - load.cached, min(load.tokens, there)
            size *= (load.tokens - load.cached) / whole
        bytes_ = round(size)
        hidden = self._hidden(engine, load.request.target - load.tokens, load.tokens, bytes_, source)
        self.bytes_due += bytes_
        self.network.hide(source.path, hidden, self.cluster.env.now)
        arrived = partial(self._arrived, load)
        load.flow = self.network.send(source.path, bytes_ - hidden, source.latency(bytes_), arrived)

    def _arrived(self, load: Load) -> None:
        load.flow = None
        self._return_soon(load, load.tokens)

    def _return_soon(self, load: Load, tokens: int) -> None:
        load.tokens = tokens
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
        for load in self._loading.values():
            if load.source.engine in engines and load.flow:
                self._abort(load)
                load.flow = None
                self._return_soon(load, load.cached)
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
                if level.share:
                    level.store.lose(*level.share)
                elif not level.spec.shared:
                    level.store.clear()
        return lost
