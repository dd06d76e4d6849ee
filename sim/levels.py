"""The tiers of each engine as a plan describes them: stores with their capacity, links with their bandwidth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..configs.plan import Plan
from ..configs.tiers import Tier
from ..costmodels.shapes import model_kv_shape
from .cluster import Cluster
from .deploy import Deployment
from .links import Link, Network
from .replica import Replica
from .tiers import Level, Loader, LoadPolicy
from .tierstore import TierStore

_GIB = 1 << 30


def make_loader(
    plan: Plan, cluster: Cluster, network: Network, policy: LoadPolicy, replicas: Sequence[Replica],
    deployments: Mapping[str, Deployment],
) -> Loader:  # fmt: skip
    """The loader of a run, with the levels of every engine."""
    assert plan.tiers is not None
    shared: dict[str, tuple[TierStore, tuple[Link, Link]]] = {}
    levels: dict[Any, list[Level]] = {}
    sizes: dict[Any, float] = {}
    layers: dict[Any, int] = {}
    for replica in replicas:
        d = deployments[replica.pool]
        for rank, engine in enumerate(replica.domains):
            sizes[engine] = model_kv_shape(d.model, d.pool.kv_cache_dtype, d.pool.techniques).token_bytes
            layers[engine] = sum(group.count for group in d.model.groups)
            levels[engine] = []
            below: TierStore | None = None
            for tier in reversed(plan.tiers.levels):
                if replica.role == "decode" and not tier.shared:
                    continue  # who decodes is sent its KV caches; what it writes is for others
                name = tier.name if tier.shared else f"{replica.pool}/{replica.number}/{rank} {tier.name}"
                known = shared.get(name) or _built(tier, name, network, d, sizes[engine], below)
                shared[name] = known
                below = known[0] if tier.write == "back" else None
                block = sizes[engine] * d.limits.block_size / tier.compression
                levels[engine].insert(0, Level(tier, *known, block))
    return Loader(cluster, network, plan.tiers, policy, levels, sizes, layers)


def _built(
    tier: Tier, name: str, network: Network, d: Deployment, token_bytes: float, below: TierStore | None
) -> tuple[TierStore, tuple[Link, Link]]:
    block = token_bytes * d.limits.block_size / tier.compression
    host = d.hardware.host.bandwidth * d.hardware.achieved.link * d.pool.tensor_parallel_size
    rate = host if tier.bandwidth is None else tier.bandwidth
    links = network.link(f"{name} up", rate), network.link(f"{name} down", rate)
    return TierStore(int(tier.capacity * _GIB / block), below), links
