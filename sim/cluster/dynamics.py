"""Whether a plan's scaling and faults make sense, said before a run; and how long a replica takes to start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...configs.dynamics import Fault
from ...configs.engine import policy_name
from ...configs.plan import Plan, Pool
from ...costmodels.base import ticks
from ...errors import InputError, unknown_name
from ..core import Autoscaler
from ..policies.registry import make_policy

if TYPE_CHECKING:
    from ..deployment import Deployment

LOAD_BANDWIDTH = 2e9  # bytes/s at which an accelerator reads its weights where a plan says nothing: an NVMe disk


def check_dynamics(plan: Plan, deployments: Sequence[Deployment]) -> None:
    """Refuse scaling that contradicts itself and faults on what is not there. Raises `InputError` with the key."""
    pools = {pool.name: pool for pool in plan.pools}
    for i, scaling in enumerate(plan.scaling):
        where = f"scaling[{i}]"
        if scaling.pool not in pools:
            raise unknown_name(f"{where}.pool", "pool", scaling.pool, pools)
        if [other.pool for other in plan.scaling].count(scaling.pool) > 1:
            raise InputError(f"{where}.pool", f"{scaling.pool!r} is scaled twice", "one entry a pool")
        have = pools[scaling.pool].replicas
        if not scaling.min_replicas <= have <= scaling.max_replicas:
            found = f"{scaling.min_replicas} to {scaling.max_replicas}, and the pool starts with {have}"
            raise InputError(f"{where}.min_replicas", found, "bounds that include the pool's `replicas`")
        make_autoscaler(plan, i)
    faults = fault_events(plan)
    names = [f"{pool.name}/{number}" for pool in plan.pools for number in range(most_replicas(plan, pool))]
    for where, fault in faults:
        known = [*names, *plan.links.fabrics] if fault.kind == "link" else names
        if fault.replica not in known:
            raise unknown_name(f"{where}.replica", "replica", fault.replica, known)
    if plan.faults or plan.scaling:
        for d in deployments:
            if d.lockstep:
                found = "ranks in lockstep, with faults or scaling"
                raise InputError(
                    f"{d.where}.data_parallel_size", found, "1: groups in lockstep do not come and go here"
                )


def make_autoscaler(plan: Plan, number: int) -> Autoscaler:
    """The autoscaler of an entry of `scaling`."""
    where = f"scaling[{number}].policy"
    made: Autoscaler = make_policy("autoscaler", *policy_name(plan.scaling[number].policy, where), where)
    return made


def fault_events(plan: Plan) -> tuple[tuple[str, Fault], ...]:
    """(where it stands, fault) of the plan and its fault file."""
    return plan.faults.all_events(plan.folder) if plan.faults else ()


def most_replicas(plan: Plan, pool: Pool) -> int:
    """Replicas that a pool has when it is scaled up as far as can be."""
    return max([pool.replicas, *(s.max_replicas for s in plan.scaling if s.pool == pool.name)])


def start_up_ticks(plan: Plan, deployment: Deployment) -> int:
    """From the decision to start a replica to its first request."""
    mine = [s for s in plan.scaling if s.pool == deployment.pool.name]
    if mine and mine[0].start_up is not None:
        return ticks(mine[0].start_up)
    bandwidth = mine[0].load_bandwidth if mine else LOAD_BANDWIDTH
    return ticks(deployment.capacity.weight_bytes / bandwidth)
