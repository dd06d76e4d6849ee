"""Whether a plan can keep KV caches between turns or below the device, said before a run; and the policies for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...configs.engine import policy_name
from ...configs.plan import Plan
from ...errors import InputError
from ...traces.table import RequestTable
from ..cluster.roles import disaggregated
from ..policies.registry import make_policy
from .pins import RetentionPolicy
from .reuse import ReusePolicy
from .tiers import LoadPolicy

if TYPE_CHECKING:
    from ..deployment import Deployment


def make_retention(plan: Plan) -> RetentionPolicy | None:
    """The retention policy, if the plan has one."""
    if plan.retention is None:
        return None
    made: RetentionPolicy = make_policy("retention", *policy_name(plan.retention, "retention"), "retention")
    return made


def make_load(plan: Plan) -> LoadPolicy | None:
    """The load policy, if the plan has tiers."""
    if plan.tiers is None:
        return None
    made: LoadPolicy = make_policy("load", *policy_name(plan.tiers.load, "tiers.load"), "tiers.load")
    return made


def make_reuse(plan: Plan) -> ReusePolicy | None:
    """The reuse policy, if the plan has one."""
    if plan.reuse is None:
        return None
    made: ReusePolicy = make_policy("reuse", *policy_name(plan.reuse, "reuse"), "reuse")
    return made


def check_retention(plan: Plan, deployments: Sequence[Deployment]) -> None:
    """Refuse what could not keep anything. Raises `InputError` with the key."""
    make_retention(plan)
    make_load(plan)
    make_reuse(plan)
    for key in ("retention", "tiers", "reuse"):
        if getattr(plan, key) is None:
            continue
        for d in deployments:
            if not d.prefix_caching:
                found = f"off, with {key}: the next request finds its context in the prefix cache"
                raise InputError(f"{d.where}.enable_prefix_caching", found, "true")
    fabrics = sorted({pool.fabric for pool in plan.pools})
    for i, tier in enumerate(plan.tiers.levels if plan.tiers else ()):
        if tier.distributed and len(fabrics) > 1:
            found = f"true, with pools on {', '.join(map(repr, fabrics))}"
            expected = "one fabric: a store across several is not modelled"
            raise InputError(f"tiers.levels[{i}].distributed", found, expected)
    if plan.tiers and plan.reuse:
        raise InputError("reuse", "given with tiers: an engine has one loader", "one of the two")
    if plan.retention and disaggregated(plan):
        found = "given with pools that hand requests over: a turn's KV cache stays where it was decoded, and the next "
        found += "turn is prefilled elsewhere"
        raise InputError("retention", found, "mixed pools, or tiers for what turns share")


def check_programs(plan: Plan, table: RequestTable) -> None:
    """Refuse a trace without anything to keep, or to reuse."""
    if plan.reuse is not None and table.chunks is None:
        found = f"given, and {table.source.name} does not say what its prompts are made of"
        raise InputError("reuse", found, "a trace with chunks, such as RAGPulse")
    if plan.retention is None:
        return
    if table.programs is None:
        raise InputError(
            "retention", f"given, and {table.source.name} has no programs", "a trace with parents and tools"
        )
    if table.blocks is None:
        raise InputError("retention", f"given, and {table.source.name} has no block ids", "a trace with hash_ids")
