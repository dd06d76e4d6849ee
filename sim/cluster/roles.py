"""Whether the pools of a disaggregated plan can work together, said before a run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from ...configs.engine import policy_name
from ...configs.plan import Plan
from ...configs.topology import Disaggregation
from ...errors import InputError, unknown_name
from ..core import AdmissionPolicy, Rebalancer, Router
from ..policies.registry import make_policy, policy_class

if TYPE_CHECKING:
    from ..deployment import Deployment


def disaggregated(plan: Plan) -> bool:
    """Whether requests may be prefilled on one replica and decoded on another."""
    if plan.disaggregation is not None or any(pool.role != "mixed" for pool in plan.pools):
        return True
    return _picks_pairs(plan)


def _picks_pairs(plan: Plan) -> bool:
    return hasattr(policy_class("router", plan.router.name, "router"), "place")


def make_decode_router(plan: Plan) -> Router:
    """The router that picks decode replicas."""
    where = "disaggregation.decode_router"
    choice = (plan.disaggregation or Disaggregation()).decode_router
    made: Router = make_policy("router", *policy_name(choice, where), where)
    if not hasattr(made, "route"):
        found = f"{policy_name(choice, where)[0]!r}, which picks pairs of replicas"
        raise InputError(where, found, "a router that picks one, or this one as the plan's `router`")
    return made


def make_rebalancer(plan: Plan) -> Rebalancer | None:
    """The rebalancer, if the plan has one."""
    if plan.rebalancer is None:
        return None
    made: Rebalancer = make_policy("rebalancer", *policy_name(plan.rebalancer, "rebalancer"), "rebalancer")
    return made


def make_admission(plan: Plan) -> AdmissionPolicy | None:
    """The admission policy, if the plan has one."""
    if plan.admission is None:
        return None
    made: AdmissionPolicy = make_policy("admission", *policy_name(plan.admission, "admission"), "admission")
    return made


def check_roles(plan: Plan, deployments: Sequence[Deployment]) -> None:
    """Refuse pools that cannot hand requests over. Raises `InputError` with the key of the pool."""
    make_rebalancer(plan)
    make_admission(plan)
    if plan.adapters and (plan.rebalancer or disaggregated(plan)):
        raise InputError("adapters", "with a rebalancer or with roles", "requests that stay where they are")
    if plan.kv_borrowing:
        _check_borrowing(plan, deployments)
    if not disaggregated(plan):
        return
    make_decode_router(plan)
    if plan.disaggregation and plan.disaggregation.near and _picks_pairs(plan):
        found = f"true, with router {plan.router.name}, which picks pairs itself"
        raise InputError("disaggregation.near", found, "false, or another router")
    names = [pool.name for pool in plan.pools]
    for key, name in plan.router.parameters.items():
        if key.endswith("_pool") and name not in names:
            raise unknown_name(f"router.{key}", "pool", str(name), names)
    prefill = [d for d in deployments if d.pool.role != "decode"]
    decode = [d for d in deployments if d.pool.role != "prefill"]
    for side, role, other in ((prefill, "prefill", "decode"), (decode, "decode", "prefill")):
        if not side:
            found = f"only pools with role {other}"
            raise InputError("pools", found, f"a pool with role {role} or mixed as well: nobody could {role}")
    for source in prefill:
        for target in decode:
            if source is not target:
                _check_pair(source, target)
                _check_way(plan, source, target, {d.pool.fabric for d in decode})


def _check_pair(source: Deployment, target: Deployment) -> None:
    a, b = source.pool, target.pool
    if source.model.name != target.model.name:
        found = f"{target.model.name}, and pool {a.name!r} prefills for {source.model.name}"
        raise InputError(f"{target.where}.model", found, "one model in all pools that hand requests over")
    if a.kv_cache_dtype != b.kv_cache_dtype:
        found = f"{b.kv_cache_dtype!r}, and pool {a.name!r} has {a.kv_cache_dtype!r}"
        raise InputError(f"{target.where}.kv_cache_dtype", found, "one KV format in all pools that hand requests over")
    if a.techniques.kv != b.techniques.kv:
        found = f"{b.techniques.kv!r}, and pool {a.name!r} has {a.techniques.kv!r}"
        raise InputError(f"{target.where}.techniques.kv", found, "one KV format in all pools that hand requests over")
    if source.limits.max_model_len > target.limits.max_model_len:
        found = f"{target.limits.max_model_len}, and pool {a.name!r} accepts {source.limits.max_model_len} tokens"
        raise InputError(f"{target.where}.max_model_len", found, f"at least {source.limits.max_model_len}")
    if source.limits.block_size != target.limits.block_size:
        found = f"{target.limits.block_size}, and pool {a.name!r} has {source.limits.block_size}"
        raise InputError(f"{target.where}.block_size", found, "one block size in all pools that hand requests over")
    if source.lockstep or target.lockstep:
        where = (source if source.lockstep else target).where
        raise InputError(
            f"{where}.data_parallel_size", "ranks in lockstep, with roles", "1 where requests are handed over"
        )


def _check_way(plan: Plan, source: Deployment, target: Deployment, decoding: Collection[str]) -> None:
    """Whether a KV cache gets from one pool to the other, if one ever has to. decoding : fabrics with pools that do."""
    a, b = source.pool, target.pool
    spec = plan.disaggregation or Disaggregation()
    stays = (a.role == "mixed" and spec.keep_mixed) or (spec.near and a.fabric in decoding)
    if stays or a.fabric == b.fabric or (a.fabric, b.fabric) in plan.fabric_links():
        return
    link = f"{a.fabric or 'EAST'}->{b.fabric or 'WEST'}"
    found = f"{b.fabric!r}, and pool {a.name!r} is on {a.fabric!r}: no link connects them"
    expected = f"{a.fabric!r}, or `links: {{fabrics: {{{link}: {{bandwidth: BYTES/S, latency: SECONDS}}}}}}`"
    raise InputError(f"{target.where}.fabric", found, expected)


def _check_borrowing(plan: Plan, deployments: Sequence[Deployment]) -> None:
    if plan.rebalancer or plan.scaling or plan.faults or plan.adapters or disaggregated(plan):
        raise InputError(
            "kv_borrowing", "with migration, scaling, faults, adapters or roles", "replicas that stay as they are"
        )
    for d in deployments:
        if d.prefix_caching or d.lockstep or len(d.cost.stages) > 1:
            found = "with prefix caching, ranks in lockstep or stages"
            raise InputError(f"{d.where}.enable_prefix_caching", found, "none of these, with kv_borrowing")
        if getattr(d.batch_policy().kv, "reserve", "chunk") == "chunk":
            found = "blocks for the first chunk only, with kv_borrowing: half-admitted prompts would block each other"
            raise InputError(f"{d.where}.kv", found, "{name: recompute, reserve: prompt}")
