"""Pools on the same accelerators: which can be, and engines that take turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...configs.plan import Plan, Pool
from ...configs.sharing import SharedGPUs
from ...costmodels.base import ticks
from ...errors import InputError
from ..deployment import Deployment
from ..engine.timeshare import TimeShare
from .replica import Replica

_GIB = 1 << 30


def check_tenancy(plan: Plan, deployments: Sequence[Deployment]) -> None:
    """Refuse pools that cannot share accelerators. Raises `InputError` with the key."""
    by_name = {d.pool.name: d for d in deployments}
    for i, group in enumerate(plan.shared_gpus):
        where = f"shared_gpus[{i}]"
        if plan.scaling or plan.faults:
            raise InputError(where, "with scaling or faults", "replicas that stay as they are")
        pools = [by_name[name] for name in group.pools]
        for d in pools:
            _check_alike(d, pools[0])
        _check_memory(group, pools, where)


def _check_alike(d: Deployment, first: Deployment) -> None:
    a, b = d.pool, first.pool
    if d.hardware != first.hardware or (a.replicas, a.parallel) != (b.replicas, b.parallel):
        found = f"{_accelerators(a)}, and pool {b.name!r} has {_accelerators(b)}"
        raise InputError(d.where, found, "hardware, clock, replicas and parallel sizes alike, to share accelerators")
    if len(d.cost.stages) > 1 or d.lockstep or a.streams or a.attention_workers or a.techniques.speculation:
        found = "stages, ranks in lockstep, streams, attention workers or speculation"
        raise InputError(d.where, found, "none of these on shared accelerators")


def _accelerators(pool: Pool) -> str:
    clock = "" if pool.gpu_clock_mhz is None else f" at {pool.gpu_clock_mhz} MHz"
    return f"{pool.replicas} x {pool.parallel.expert_ranks} on {pool.hardware}{clock}"


def _check_memory(group: SharedGPUs, pools: Sequence[Deployment], where: str) -> None:
    shares = sum(d.capacity.gpu_memory_utilization for d in pools)
    space = (group.weight_space or 0.0) * _GIB
    for d in pools:
        assert d.tenancy is not None
        if d.tenancy.weights > space:
            found = f"{group.weight_space:g} GiB, and {d.model.name} has {d.tenancy.weights / _GIB:.1f} GiB of weights"
            raise InputError(f"{where}.weight_space", found, "room for the weights of each model")
    device = pools[0].hardware.memory_bytes
    if shares + space / device > 1 + 1e-9:
        found = f"gpu_memory_utilization of {' + '.join(f'{d.capacity.gpu_memory_utilization:g}' for d in pools)}"
        found += f" and weights {space / device:.3g}" if space else ""
        raise InputError(f"{where}.pools", f"{found} of the memory", "at most 1 together")


def share_gpus(group: SharedGPUs, replicas: Sequence[Replica]) -> None:
    """Put engine r of replica i of every pool on the same accelerators."""
    lanes: dict[tuple[int, int], list[Any]] = {}
    for replica in replicas:
        for rank, engine in enumerate(replica.domains):
            lanes.setdefault((replica.number, rank), []).append(engine)
    for together in lanes.values():
        TimeShare(together, max(1, ticks(group.quantum)), (group.weight_space or 0.0) * _GIB)
