"""A replica: what a router sees and sends requests to; one engine, or several that share its load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any, cast

from ...costmodels.base import TICKS_PER_SECOND, prompt_seconds
from ..core import Load, ReplicaView, Request
from ..engine.domain import Domain
from ..events import NEVER, Clock
from ..kv.adapterpool import AdapterPool


class Replica:
    """One or more engines (the data-parallel ranks of a dense model) behind one address.

    What it tells of itself is the same however far its engines have leapt ahead: it counts who has reached the door
    with those in the queue, and blocks as of the iteration under way.
    """

    __slots__ = (
        "_as_of",
        "_load",
        "_same_until",
        "by_priority",
        "coming",
        "domains",
        "history",
        "id",
        "news",
        "number",
        "pool",
        "prepend_tokens",
        "requests",
        "role",
        "state",
        "tokens",
    )

    def __init__(self, id_: int, pool: str, domains: Sequence[Domain], role: str = "mixed", number: int = 0) -> None:
        self.id = id_
        self.pool = pool
        self.number = number  # in its pool
        self.prepend_tokens = 0  # put before every prompt
        self.domains = domains
        self.role = role
        self.state = "up"  # or "starting", "draining" (finishes what it has and gets nothing new) or "down"
        self.history: list[tuple[int, str]] = []  # when it came into which state; empty = always up
        self.requests = 0  # routed here and not ended
        self.tokens = 0  # their prompt tokens
        self.coming = 0  # prompt tokens of those that are to decode here and are prefilled elsewhere
        self.by_priority: dict[int, int] = {}  # how many of each priority
        self.news: int | None = None  # from the first look on, where the engines tell of their decisions
        self._load: Load
        self._as_of: int | None = None  # the news when all of `_load` was looked up
        self._same_until = -1

    @property
    def free_share(self) -> float:
        """Share of its KV blocks that is free now."""
        return sum(d.free_now() for d in self.domains) / sum(d.rank.total_blocks for d in self.domains)

    @property
    def block_size(self) -> int:
        """Tokens a KV block."""
        return self.domains[0].rank.limits.block_size

    @property
    def load(self) -> Load:
        """What it has to do; looked up again only when it may have changed."""
        engines = self.domains
        if engines[0].env.now < self._same_until:
            return self._load
        load = self.load_before
        free = 0
        self._same_until = NEVER
        for engine in engines:
            blocks, until = engine.outlook()
            free += blocks
            self._same_until = min(until, self._same_until)
        self._load = Load(free, *load[1:])
        return self._load

    @property
    def load_before(self) -> Load:
        """`load`, with as many free blocks as there were at some time since the last news."""
        engines = self.domains
        if self._as_of is None or self._as_of != self.news:
            if self.news is None and all(type(d) is Domain for d in engines):
                self.news = 0
                for engine in engines:
                    engine.onlooker = self
            loads = [_load(d, self.state == "draining") for d in engines]
            self._load = loads[0] if len(loads) == 1 else _sum(loads)
            self._as_of = self.news
        return self._load

    def lasts(self, blocks: int) -> int:
        """The tick before which at least so many KV blocks stay free if there is no news."""
        engines = self.domains
        return engines[0].lasts(blocks) if len(engines) == 1 and self.news is not None else engines[0].env.now

    def touch(self) -> None:
        """Something may have changed but for the free blocks: `load` is to be looked up again."""
        self._same_until = -1
        if self.news is not None:
            self.news += 1

    @property
    def pending_tokens(self) -> int:
        """Prompt tokens that are to be computed there."""
        return sum(tokens for d in self.domains for tokens, _ in _prompts(d))

    def prefill_seconds(self, tokens: int, context: int) -> float:
        """Predicted time of a prompt's `tokens` tokens after `context` cached ones, alone."""
        return prompt_seconds(self.domains[0].cost, tokens, context)

    def queue_seconds(self) -> float:
        """Predicted time of the prompts that wait there or are under way, on the least busy of its engines."""
        return min(sum(self.prefill_seconds(*prompt) for prompt in _prompts(d)) for d in self.domains)

    def decode_seconds(self) -> float:
        """Predicted time of an iteration with one more decode than it has requests running, and the KV cache that is
        to come."""
        cost, engines = self.domains[0].cost, len(self.domains)
        load = self.load
        decodes = load.running // engines + 1
        context = ((load.total_blocks - load.free_blocks) * self.block_size + self.coming) // engines
        mean = context // decodes
        pieces = sum(stage.piece((), decodes, context, mean, mean)[0] for stage in cost.stages)
        return (pieces + cost.host(decodes)) / TICKS_PER_SECOND

    def arrive(self, request: Request) -> None:
        """Hand a request to an engine: of several, to the one with the least 4 x waiting + running.

        Source: the data-parallel client of vllm-project/vllm (`v1/engine/core_client.py`).
        """
        domain = request.engine = self.expect(request)
        self.touch()
        domain.arrive(request)

    def expect(self, request: Request) -> Domain:
        """Count a request that is routed here, and pick its engine."""
        self.count(request)
        domains = self.domains
        return domains[0] if len(domains) == 1 else self.pick()

    def count(self, request: Request) -> None:
        """From now on a request is this replica's."""
        self.requests += 1
        self.tokens += request.prompt_tokens
        if request.priority:
            self.by_priority[request.priority] = self.by_priority.get(request.priority, 0) + 1
            self.touch()
        request.replica = self.id

    def pick(self) -> Domain:
        """The engine with the least load."""
        domains = self.domains
        return domains[0] if len(domains) == 1 else min(domains, key=_engine_load)

    def cached_tokens(self, request: Request) -> int:
        """Tokens of a prompt that the best of its prefix caches has now."""
        found = max((d.cached_now(request) for d in self.domains if d.rank.caching), default=0)
        return found * self.domains[0].rank.limits.block_size

    def loadable(self, request: Request) -> tuple[int, float]:
        """Tokens of a prompt beyond its prefix cache that it would load, and the predicted seconds for that."""
        pins = self.pick().rank.pins
        return pins.loadable(request) if pins else (0, 0.0)

    def has_adapter(self, request: Request) -> bool:
        """Whether a request's LoRA adapter is on one of its devices."""
        pools = [d.rank.pool for d in self.domains]
        return any(pool.resident(request.adapter) for pool in pools if isinstance(pool, AdapterPool))

    def release(self, request: Request) -> None:
        """A request that was routed here has ended."""
        self.requests -= 1
        self.tokens -= request.prompt_tokens
        if request.priority:
            self.by_priority[request.priority] -= 1
            self.touch()


def _engine_load(domain: Domain) -> int:
    return 4 * (len(domain.rank.waiting) + len(domain.inbox)) + domain.rank.running


def _sum(loads: Sequence[Load]) -> Load:
    free, total, running, waiting, head, queued, thrashing, draining, kept = (sum(c) for c in zip(*loads, strict=True))
    return Load(free, total, running, waiting, head, queued, thrashing > 0, draining > 0, kept)


def _load(domain: Domain, draining: bool) -> Load:
    """Its free blocks are those of when the leap under way began."""
    rank = domain.rank
    waiting = len(rank.waiting) + len(domain.inbox)
    head = queued = 0
    thrashing = bool(rank.swapped)
    if waiting:
        blocks = rank.limits.blocks
        first = _head(domain)
        head = blocks(first.target) if first else 0
        queued = sum([blocks(r.target) for r in chain(rank.waiting, domain.inbox)])
        thrashing = thrashing or any(r.preemptions and r.generated for r in islice(rank.waiting, 8))
    watermark = getattr(rank.kv, "watermark", 0.0) or getattr(rank.policy, "watermark", 0.0)
    kept = int(watermark * rank.total_blocks)
    return Load(rank.pool.free, rank.total_blocks, rank.running, waiting, head, queued, thrashing, draining, kept)


def _prompts(domain: Domain) -> Iterator[tuple[int, int]]:
    """(tokens to compute, tokens in the cache) of everybody whose prompt is not complete."""
    yield from domain.prompts_under_way()
    for request in chain(domain.rank.prefills, domain.rank.waiting, domain.inbox):
        yield request.target - request.computed, request.computed


def _head(domain: Domain) -> Request | None:
    rank = domain.rank
    first = [*islice(rank.waiting, 1), *domain.inbox]
    if not first or rank.fifo:
        return first[0] if first else None
    return min(first, key=lambda r: (rank.queue_key(r), r.index))


class AgedView:
    """A replica as it was when last looked at, if that is less than `age` ticks ago; else as it is now."""

    def __init__(self, replica: Replica, env: Clock, age: int) -> None:
        self._replica = replica
        self._env = env
        self._age = age
        self._taken = -age
        self._seen: dict[str, Any] = {}

    @property
    def load(self) -> Load:
        """As last seen."""
        if self._env.now - self._taken < self._age:
            known: Load | None = self._seen.get("load")
            if known is not None:
                return known
        seen: Load = self.__getattr__("load")
        return seen

    @property
    def load_before(self) -> Load:
        """A view does not change before it is taken again."""
        return self.load

    @property
    def news(self) -> None:
        """It does not tell when it is taken again."""
        return None

    def lasts(self, blocks: int) -> int:
        """Likewise."""
        return self._env.now

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # not of a replica; asked when a checkpoint is read
            raise AttributeError(name)
        now = self._env.now
        if now - self._taken >= self._age:
            self._taken = now
            self._seen.clear()
        if name not in self._seen:
            self._seen[name] = getattr(self._replica, name)
        return self._seen[name]


def views(replicas: Sequence[Replica], env: Clock, age: int) -> list[ReplicaView]:
    """What a router sees: the replicas themselves, or snapshots that are up to `age` ticks old."""
    return [cast(ReplicaView, AgedView(r, env, age)) for r in replicas] if age else list(replicas)
