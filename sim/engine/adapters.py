"""LoRA adapters while a run lasts: who asks for which, their pages in the KV cache's memory, their time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ...configs.adapters import Adapters
from ...costmodels.lora import LoraCost
from ...errors import InputError
from ...traces.streams import Stream
from ...traces.table import RequestTable
from ..core import Part, Request
from ..kv.adapterpool import AdapterPool
from ..kv.pool import BlockPool

if TYPE_CHECKING:
    from ..deployment import Deployment


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
