"""Models that share layers, while a run lasts: which model a request asks for, and what its own layers add."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ...configs.plan import Plan
from ...costmodels.blocks import BlockCost
from ...errors import InputError
from ...traces.table import RequestTable
from ..core import Part, Request

if TYPE_CHECKING:
    from ..deployment import Deployment


def check_blocks(plan: Plan, deployment: Deployment) -> None:
    """Refuse a pool whose models cannot share layers. Raises `InputError` with the key."""
    pool, where = deployment.pool, deployment.where
    if plan.adapters or plan.kv_borrowing:
        raise InputError(f"{where}.blocks", "with adapters or kv_borrowing", "one of them")
    if len(pool.serves) < 2:
        raise InputError(f"{where}.serves", f"{list(pool.serves)}, with blocks", "the labels of two models or more")
    if pool.enable_prefix_caching:
        raise InputError(f"{where}.enable_prefix_caching", "true, with blocks", "false: a prefix is one model's")
    if (
        pool.pipeline_parallel_size > 1
        or deployment.lockstep
        or pool.streams
        or pool.attention_workers
        or pool.techniques.speculation
    ):
        found = "stages, ranks in lockstep, streams, attention workers or speculation"
        raise InputError(f"{where}.blocks", f"with {found}", "none of these")


def models_of(table: RequestTable) -> list[int]:
    """The model of every row of a trace, by code."""
    if table.model is None:
        raise InputError("blocks", "given, and the trace has no `model` column", "a label for every request")
    codes: list[int] = table.model.codes.tolist()
    return codes


class BlockTimes:
    """What the models' own layers add to the iterations of one engine."""

    def __init__(self, cost: BlockCost) -> None:
        self._cost = cost

    def iteration(self, decodes: Iterable[Request], parts: Iterable[Part]) -> int:
        """Ticks for these decodes and prompt parts."""
        tokens = Counter(r.adapter for r in decodes)
        requests = tokens.total()
        for request, n in parts:
            tokens[request.adapter] += n
            requests += 1
        return self._cost.iteration(tokens, requests)

    def stall(self, start: int) -> int:
        """Nothing beyond that."""
        return 0
