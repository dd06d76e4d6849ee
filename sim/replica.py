"""A replica: what a router sees and sends requests to; one engine, or several that share its load."""

from __future__ import annotations

from collections.abc import Sequence

from .core import ReplicaView, Request
from .domain import Domain
from .events import Clock


class Replica:
    """One or more engines (the data-parallel ranks of a dense model) behind one address."""

    __slots__ = ("domains", "id", "number", "pool", "requests", "role", "tokens")

    def __init__(self, id_: int, pool: str, domains: Sequence[Domain], role: str = "mixed", number: int = 0) -> None:
        self.id = id_
        self.pool = pool
        self.number = number  # in its pool
        self.role = role
        self.domains = domains
        self.requests = 0  # routed here and not ended
        self.tokens = 0  # their prompt tokens

    @property
    def free_share(self) -> float:
        """Share of its KV blocks that is free now."""
        return sum(d.free_now() for d in self.domains) / sum(d.rank.total_blocks for d in self.domains)

    def arrive(self, request: Request) -> None:
        """Hand a request to an engine: of several, to the one with the least 4 x waiting + running.

        Source: the data-parallel client of vllm-project/vllm (`v1/engine/core_client.py`).
        """
        domain = self.expect(request)
        request.engine = domain
        domain.arrive(request)

    def expect(self, request: Request) -> Domain:
        """Count a request that is routed here, and pick its engine."""
        self.requests += 1
        self.tokens += request.prompt_tokens
        request.replica = self.id
        domains = self.domains
        return domains[0] if len(domains) == 1 else min(domains, key=_engine_load)

    def cached_tokens(self, request: Request) -> int:
        """Tokens of a prompt that the best of its prefix caches has now."""
        found = max((d.rank.lookup(request, {})[0] for d in self.domains if d.rank.caching), default=0)
        return found * self.domains[0].rank.limits.block_size

    def release(self, request: Request) -> None:
        """A request that was routed here has ended."""
        self.requests -= 1
        self.tokens -= request.prompt_tokens


def _engine_load(domain: Domain) -> int:
    return 4 * (len(domain.rank.waiting) + len(domain.inbox)) + domain.rank.running


class AgedView:
    """A replica as it was when last looked at, if that is less than `age` ticks ago; else as it is now."""

    def __init__(self, replica: Replica, env: Clock, age: int) -> None:
        self._replica = replica
        self._env = env
        self._age = age
        self._taken = -age
        self.id = replica.id
        self._requests = self._tokens = 0
        self._free_share = 1.0

    def _refresh(self) -> None:
        now = self._env.now
        if now - self._taken >= self._age:
            self._taken = now
            self._requests = self._replica.requests
            self._tokens = self._replica.tokens
            self._free_share = self._replica.free_share

    @property
    def requests(self) -> int:
        """Requests there, as last seen."""
        self._refresh()
        return self._requests

    @property
    def tokens(self) -> int:
        """Their prompt tokens, as last seen."""
        self._refresh()
        return self._tokens

    @property
    def free_share(self) -> float:
        """Share of free KV blocks, as last seen."""
        self._refresh()
        return self._free_share


def views(replicas: Sequence[Replica], env: Clock, age: int) -> list[ReplicaView]:
    """What a router sees: the replicas themselves, or snapshots that are up to `age` ticks old."""
    return [AgedView(r, env, age) for r in replicas] if age else list(replicas)
