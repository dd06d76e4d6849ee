"""Replays published closed-loop measurements: the mean TTFT and TPOT that the simulator says for each row."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np

from ...configs.plan import Plan, plan_from
from ...costmodels.base import Chunk, CostModel, Piece, StageCost, ticks
from ...costmodels.tablecost import MeasuredCost
from ...costmodels.transfer import kv_transfer_bytes, transfer_seconds
from ...errors import InputError
from ...traces.columns import Floats
from ...traces.table import RequestTable
from ..deploy import deploy, priced
from ..deployment import Deployment
from ..report.metrics import Finished
from ..report.report import time_shares
from ..run import Run, run
from .rows import FRONT_END, BenchRow, Workers, left_out, plan_of, requests_of

# Host constants by name of an engine preset: what a fit varies.
Constants = Mapping[str, Mapping[str, float]]
COVERED = 0.9  # share of the operators' time that must rest on measurements for a row to count


@dataclass(frozen=True)
class Prediction:
    """Seconds; `shares` of the operators' time by origin; `reason` where a row has no prediction or does not count."""

    id: str
    ttft: float = float("nan")
    tpot: float = float("nan")
    shares: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None

    @property
    def covered(self) -> bool:
        """Whether the row counts."""
        return self.reason is None


def predict_all(
    rows: Sequence[BenchRow], hardware: str, cost: str, constants: Constants | None = None, processes: int = 1
) -> list[Prediction]:
    """The prediction of every row, in order, by several processes."""
    one = partial(predict, hardware=hardware, cost=cost, constants=constants or {})
    if processes == 1:
        return [one(row) for row in rows]
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(one, rows, chunksize=4))


def predict(row: BenchRow, hardware: str, cost: str, constants: Constants) -> Prediction:
    """Replay one row."""
    reason = left_out(row)
    if reason:
        return Prediction(row.id, reason=reason)
    try:
        if row.decode:
            ttft, tpot, runs = _apart(row, row.decode, hardware, cost, constants)
        else:
            whole = _replay(row, row.workers, hardware, cost, constants)
            ttft, tpot, runs = *_means(whole), [whole]
    except InputError as error:  # without the arithmetic of a memory that is too small
        return Prediction(row.id, reason=error.found.partition(":")[0])
    ttft += FRONT_END * row.isl
    shares = time_shares([engine for each in runs for engine in each.engines]) or {"fallback": 1.0}
    reason = None
    if shares.get("fallback", 0.0) > 1 - COVERED:
        missing = {name for each in runs for d in each.deployments for name in _lacking(d.cost)}
        reason = f"over {1 - COVERED:.0%} of its time falls back to the roofline: {', '.join(sorted(missing))}"
    return Prediction(row.id, ttft, tpot, shares, reason)


def _lacking(cost: CostModel) -> list[str]:
    """Names of the operators without measured times."""
    priced_by = cost.priced_by if isinstance(cost, _FreePrompts) else cost
    return priced_by.fallen_back() if isinstance(priced_by, MeasuredCost) else ["all operators"]


def _replay(row: BenchRow, workers: Workers, hardware: str, cost: str, constants: Constants) -> Run:
    plan = plan_from(plan_of(row, workers, hardware, cost))
    table, think = requests_of(row)
    return run(table, plan, users=row.users, think_time=think, deployments=_deployed(plan, constants))


def _deployed(plan: Plan, constants: Constants) -> list[Deployment]:
    """The plan's pools, with an engine's constants replaced where some are given."""
    deployments = deploy(plan)
    for i, d in enumerate(deployments):
        if d.preset.name in constants:
            preset = dataclasses.replace(d.preset, **cast(dict[str, Any], constants[d.preset.name]))
            cost = priced(plan, d.pool, preset, d.model, d.hardware, d.limits)
            deployments[i] = dataclasses.replace(d, preset=preset, cost=cost)
    return deployments


def _means(done: Run) -> tuple[float, float]:
    requests = Finished(done)
    tpot = requests.tpot[requests.has_tpot]
    return float(requests.ttft.mean()), float(tpot.mean()) if len(tpot) else 0.0


# -- prefill and decode on workers of their own --------------------------------------------------------------------


def _apart(
    row: BenchRow, decode: Workers, hardware: str, cost: str, constants: Constants
) -> tuple[float, float, list[Run]]:
    """Prefill and decode workers, simulated one after the other.

    Each pool sees the other as the time its users think: the prefill pool takes requests of one token, whose users come
    back after the mean time of transfer and decoding; the decode pool takes requests whose prompts cost nothing, and
    users who come back after the mean TTFT. Two rounds bring the two means together. TPOT counts the transfer.
    """
    table, think = requests_of(row)
    first = dataclasses.replace(table, output_tokens=np.ones(len(table), np.int64))
    plans = [plan_from(plan_of(row, workers, hardware, cost)) for workers in (row.workers, decode)]
    [prefills], [decodes] = (_deployed(plan, constants) for plan in plans)
    free: Any = _FreePrompts(decodes.cost)
    decodes = dataclasses.replace(decodes, cost=free)
    card, ranks = decodes.hardware, decode.tensor_parallel_size
    size = kv_transfer_bytes(decodes.model, row.isl, decodes.pool.kv_cache_dtype)
    moved = transfer_seconds(size, card.network, ranks=ranks, share=card.achieved.link)
    ttft, decoding = 0.0, 0.0
    for _ in range(2):
        prefilled = _pool(first, think + decoding, row.users, plans[0], prefills)
        ttft, _ = _means(prefilled)
        decoded = _pool(table, think + ttft, row.users, plans[1], decodes)
        waiting, tpot = _means(decoded)
        decoding = moved + waiting + tpot * (row.osl - 1)
    return ttft, decoding / max(1, row.osl - 1), [prefilled, decoded]


def _pool(table: RequestTable, think: Floats, users: int, plan: Plan, deployment: Deployment) -> Run:
    return run(table, plan, users=users, think_time=think, deployments=[deployment])


class _FreePrompts:
    """A cost model whose prompts are already in the cache: only decodes take time."""

    def __init__(self, cost: CostModel) -> None:
        self.priced_by, self.extremes, self.label = cost, cost.extremes, cost.label
        self.hop, self.host, self.describe = cost.hop, cost.host, cost.describe
        self.stages: Sequence[StageCost] = [_NoPrompts(stage) for stage in cost.stages]
        self.meters: Mapping[str, Sequence[StageCost]] = {
            name: [_NoPrompts(stage) for stage in stages] for name, stages in cost.meters.items()
        }


class _NoPrompts:
    def __init__(self, stage: StageCost) -> None:
        self._stage = stage

    def piece(
        self, chunks: Sequence[Chunk], decodes: int, context_sum: int, context_min: int, context_max: int
    ) -> Piece:
        if not decodes:
            return ticks(1e-6), 0, 1, 0
        return self._stage.piece((), decodes, context_sum, context_min, context_max)
