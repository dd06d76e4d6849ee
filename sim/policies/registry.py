"""Names of policies: one line a policy; others come from the entry-point group `servecast.policies`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from ...configs.strict import build
from ...errors import InputError, unknown_name

BUILT_IN = {
    "batch": {
        "vllm_v1": "vllm_v1:VllmV1",
        "vllm_v0": "vllm_v0:VllmV0",
        "orca": "orca:Orca",
        "sarathi": "sarathi:Sarathi",
        "static": "static_batching:StaticBatching",
        "sglang": "sglang:Sglang",
        "trtllm": "trtllm:Trtllm",
        "rotation": "rotation:Rotation",
        "preemptive": "preemptive:Preemptive",
        "nexus": "nexus:Nexus",
        "niyama": "niyama:Niyama",
        "splitwise": "splitwise_batch:SplitwiseBatch",
    },
    "queue": {
        "fcfs": "fcfs:Fcfs",
        "priority": "priority:Priority",
        "sjf": "sjf:Sjf",
        "program_fcfs": "program_fcfs:ProgramFcfs",
        "plas": "plas:Plas",
        "atlas": "plas:Atlas",
        "hexgen": "hexgen_urgency:HexgenUrgency",
        "vtc": "vtc:Vtc",
        "adapter_clusters": "adapter_clusters:AdapterClusters",
        "longest_prefix": "longest_prefix:LongestPrefix",
        "dfs_weight": "dfs_weight:DfsWeight",
        "drawn_priority": "drawn_priority:DrawnPriority",
    },
    "kv": {
        "recompute": "recompute:Recompute",
        "swap": "swap:Swap",
        "no_evict": "no_evict:NoEvict",
        "sglang_retract": "sglang_retract:SglangRetract",
    },
    "eviction": {
        "lru": "lru:Lru",
        "lfu": "lfu:Lfu",
        "cost_aware": "cost_aware:CostAware",
        "tail_first": "tail_first:TailFirst",
    },
    "retention": {
        "continuum": "continuum:Continuum",
        "static_ttl": "static_ttl:StaticTtl",
        "infercept": "infercept:Infercept",
        "end_of_turn": "end_of_turn:EndOfTurn",
    },
    "reuse": {
        "cacheblend": "cacheblend:CacheBlend",
        "cache_craft": "cache_craft:CacheCraft",
        "kvshare": "kvshare:KVShare",
    },
    "load": {
        "load_always": "load_always:LoadAlways",
        "cachegen": "cachegen:CacheGen",
        "kvcache_balancing": "kvcache_balancing:KVCacheBalancing",
    },
    "router": {
        "random": "random_choice:RandomChoice",
        "round_robin": "round_robin:RoundRobin",
        "power_of_two": "power_of_two:PowerOfTwo",
        "least_outstanding": "least_outstanding:LeastOutstanding",
        "most_free_kv": "most_free_kv:MostFreeKV",
        "planned_shares": "planned_shares:PlannedShares",
        "llumnix": "llumnix_dispatch:LlumnixDispatch",
        "infaas": "infaas:Infaas",
        "session_home": "session_home:SessionHome",
        "prefix_affinity": "prefix_affinity:PrefixAffinity",
        "sglang": "sglang_router:SglangRouter",
        "dynamo": "dynamo_cost:DynamoCost",
        "predicted_ttft": "predicted_ttft:PredictedTTFT",
        "mooncake": "mooncake:Mooncake",
        "splitwise": "splitwise:Splitwise",
        "hexgen": "hexgen:HexgenRouter",
        "adapter_affinity": "adapter_affinity:AdapterAffinity",
        "punica": "punica:Punica",
        "ic_cache": "ic_cache:IcCache",
    },
    "rebalancer": {
        "llumnix": "llumnix_migration:LlumnixMigration",
    },
    "autoscaler": {
        "queue": "scale_by_queue:ScaleByQueue",
        "kv": "scale_by_kv:ScaleByKV",
        "slo": "scale_by_slo:ScaleBySLO",
        "llumnix": "llumnix_scaling:LlumnixScaling",
        "schedule": "scale_by_schedule:ScaleBySchedule",
    },
    "admission": {
        "max_waiting": "max_waiting:MaxWaiting",
        "tenant_rate": "tenant_rate:TenantRate",
        "shed_low_priority": "shed_low_priority:ShedLowPriority",
    },
}
GROUP = "servecast.policies"  # an entry point there is called <kind>.<name>, as in "batch.my_scheduler"


def policy_class(kind: str, name: str, where: str = "") -> type:
    """The class of a policy. Raises `InputError` at `where` for a name that nobody has registered."""
    if name in BUILT_IN[kind]:
        module, _, attribute = BUILT_IN[kind][name].partition(":")
        found: type = getattr(import_module(f".{module}", __package__), attribute)
        return found
    others = {point.name: point for point in entry_points(group=GROUP) if point.name.startswith(f"{kind}.")}
    if f"{kind}.{name}" not in others:
        known = [*BUILT_IN[kind], *(other.partition(".")[2] for other in others)]
        raise unknown_name(where, f"{kind} policy", name, known)
    loaded: type = others[f"{kind}.{name}"].load()
    return loaded


def make_policy(kind: str, name: str, parameters: Mapping[str, Any], where: str = "") -> Any:
    """A policy with its parameters, checked against the fields of its dataclass."""
    cls = policy_class(kind, name, where)
    try:
        return build(cls, dict(parameters))
    except InputError as error:
        raise error.at(where) from None


def third_party_modules() -> set[str]:
    """Modules of the policies that other packages have registered."""
    return {point.module for point in entry_points(group=GROUP)}
