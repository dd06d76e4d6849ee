"""LoRA adapters while a run lasts: who asks for which, their pages in the KV cache's memory, their time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ...configs.adapters import Adapters
from ...costmodels.lora import LoraCost
from ...errors import InputError
from ...traces.streams import Stream
from ...traces.table import RequestTable
from ..core import Part, Request
from ..kv.pool import BlockPool

if TYPE_CHECKING:
    from ..deploy import Deployment


def with_adapters(deployment: Deployment, adapters: Adapters) -> Deployment:
    """A pool that serves adapters. Raises `InputError` where it cannot, or where they leave no room."""
    pool, where, limits = deployment.pool, deployment.where, deployment.limits
    if not getattr(deployment.batch_policy(), "caches_prefixes", False):
        raise InputError(f"{where}.batch", "a policy that does not look adapters up", "vllm_v1, with adapters")
    if pool.enable_prefix_caching:
        raise InputError(f"{where}.enable_prefix_caching", "true, with adapters", "false: a prefix is one adapter's")
    if pool.pipeline_parallel_size > 1 or deployment.lockstep:
        raise InputError(f"{where}.pipeline_parallel_size", "stages or ranks in lockstep, with adapters", "1")
    if deployment.batch_policy().kv.swaps:
        raise InputError(f"{where}.kv", "swapping, with adapters", "a KV policy that recomputes")
    cost = LoraCost(adapters, deployment.model, deployment.hardware, pool.parallel)
    block = deployment.capacity.shape.token_bytes * deployment.capacity.block_size
    need = [-int(-cost.adapter_bytes(adapter) // block) for adapter in range(adapters.count)]
    static = adapters.memory == "static"
    taken = sum(need) if static else max(need)
    left = deployment.blocks - taken
    if left < limits.blocks(limits.max_model_len):
        what = f"all {adapters.count} adapters take" if static else "the largest adapter takes"
        found = f"{what} {taken} of {deployment.blocks} KV blocks, and a request of max_model_len needs "
        found += f"{limits.blocks(limits.max_model_len)}"
        raise InputError("adapters", found, "smaller or fewer adapters, or a smaller max_model_len")
    return replace(
        deployment,
        lora=cost,
        adapter_blocks=() if static else tuple(need),
        blocks=left if static else deployment.blocks,
    )


def adapters_of(adapters: Adapters, table: RequestTable, seed: int) -> list[int]:
    """The adapter of every row of a trace, -1 = none."""
    n, count = len(table), adapters.count
    if adapters.popularity == "model":
        if table.model is None:
            raise InputError("adapters.popularity", "model, and the trace has no such column", "power, for example")
        if len(table.model.names) > count:
            found = f"{count}, and the trace names {len(table.model.names)}"
            raise InputError("adapters.count", found, f"at least {len(table.model.names)}")
        codes: list[int] = table.model.codes.tolist()
        return codes
    if adapters.popularity == "distinct":
        return [row % count for row in range(n)]
    alpha = {"uniform": 0.0, "power": adapters.alpha}.get(adapters.popularity)
    if alpha is None:
        return [0] * n
    shares = np.cumsum(np.arange(1, count + 1, dtype=float) ** -alpha)
    drawn = np.searchsorted(shares, Stream(seed, "adapters").uniform(n) * shares[-1], side="right")
    return [int(adapter) for adapter in np.minimum(drawn, count - 1)]


class AdapterPool(BlockPool):
    """KV blocks of which adapters in use take some; those that nobody uses stay until their room is needed.

    It speaks to policies as a prefix cache does: `lookup` says how many free blocks a request's adapter would take.
    blocks_of : by adapter.
    """

    __slots__ = ("_blocks_of", "_idle", "_idle_blocks", "_users", "fetched")

    caching = True

    def __init__(self, total: int, blocks_of: Sequence[int]) -> None:
        super().__init__(total)
        self._blocks_of = blocks_of
        self._users: dict[int, int] = {}  # adapter -> requests that hold it
        self._idle: dict[int, None] = {}  # resident and not in use, least recently used first
        self._idle_blocks = 0  # of these; they count as free
        self.fetched: list[Request] = []  # whose adapter had to be fetched, since anybody looked

    def resident(self, adapter: int) -> bool:
        """Whether an adapter is on the device."""
        return adapter in self._users or adapter in self._idle

    def take(self, blocks: int) -> None:
        """Hand out some; idle adapters go where there is no other room."""
        super().take(blocks)
        while self._idle_blocks > self.free:
            oldest = next(iter(self._idle))
            del self._idle[oldest]
            self._idle_blocks -= self._blocks_of[oldest]

    def admit(self, request: Request) -> None:
        """Hand out a request's blocks and, if nobody else uses it, its adapter's."""
        adapter = request.adapter
        if adapter >= 0:
            if adapter not in self._users:
                blocks = self._blocks_of[adapter]
                if adapter in self._idle:
                    del self._idle[adapter]
                    self._idle_blocks -= blocks
                else:
                    self.fetched.append(request)
                self.take(blocks)
            self._users[adapter] = self._users.get(adapter, 0) + 1
        self.take(request.blocks)

    def release(self, request: Request, preempted: bool = False) -> None:
        """Take blocks back; an adapter that nobody uses any more stays for the time being."""
        super().release(request)
        adapter = request.adapter
        if adapter >= 0:
            self._users[adapter] -= 1
            if not self._users[adapter]:
                del self._users[adapter]
                self._idle[adapter] = None
                self._idle_blocks += self._blocks_of[adapter]
                self.free += self._blocks_of[adapter]

    def clear(self) -> None:
        """Everything is lost."""
        super().clear()
        self._users, self._idle, self._idle_blocks, self.fetched = {}, {}, 0, []

    def lookup(self, request: Request, promised: dict[int, int], taken: int = 0) -> tuple[int, int]:
        """(0, free blocks that the request's adapter takes)."""
        adapter = request.adapter
        held = adapter < 0 or adapter in self._users or ~adapter in promised
        return 0, 0 if held else self._blocks_of[adapter]

    def promise(self, request: Request, tokens: int, promised: dict[int, int]) -> None:
        """A request is admitted, and so is its adapter."""
        promised[~request.adapter] = 1


class Beside(Protocol):
    """What adds to the iterations of an engine besides its own operators."""

    def iteration(self, decodes: Iterable[Request], parts: Iterable[Part]) -> int:
        """Ticks for these decodes and prompt parts, the same for every iteration of a leap."""
        ...

    def stall(self, start: int) -> int:
        """Ticks that the one iteration that starts now waits; asked once."""
        ...


class AdapterTimes:
    """What adapters add to the iterations of one engine. pool : of an engine that fetches on demand."""

    def __init__(self, cost: LoraCost, pool: BlockPool) -> None:
        self._cost = cost
        self._pool = pool if isinstance(pool, AdapterPool) else None

    def iteration(self, decodes: Iterable[Request], parts: Iterable[Part]) -> int:
        """Ticks for these decodes and prompt parts."""
        tokens = Counter(r.adapter for r in decodes)
        for request, n in parts:
            tokens[request.adapter] += n
        del tokens[-1]
        return self._cost.iteration(tokens)

    def stall(self, start: int) -> int:
        """Ticks that an iteration waits for adapters fetched for it; a prefetch began when its request came."""
        if not self._pool or not self._pool.fetched:
            return 0
        fetched, self._pool.fetched = self._pool.fetched, []
        waited = [start - r.queued if self._cost.adapters.prefetch else 0 for r in fetched]
        return sum(max(0, self._cost.fetch(r.adapter) - w) for r, w in zip(fetched, waited, strict=True))
