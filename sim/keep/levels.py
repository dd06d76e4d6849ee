"""The tiers of each engine as a plan describes them: stores with their capacity, links with their bandwidth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...configs.plan import Plan
from ...configs.tiers import Tier
from ...costmodels.shapes import model_kv_shape
from ..cluster.cluster import Cluster
from ..cluster.links import Link
from ..cluster.replica import Replica
from ..cluster.sites import Sites, islands
from ..deployment import Deployment
from ..kv.store import TierStore
from .level import Level
from .peers import Peers
from .tiers import Loader, LoadPolicy

_GIB = 1 << 30


def make_loader(
    plan: Plan, cluster: Cluster, sites: Sites, policy: LoadPolicy, replicas: Sequence[Replica],
    deployments: Mapping[str, Deployment],
) -> Loader:  # fmt: skip
    """The loader of a run, with the levels of every engine."""
    assert plan.tiers is not None
    network = sites.network
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
                block = sizes[engine] * d.limits.block_size / tier.compression
                known = shared.get(name)
                if known is None:
                    rate = _adapters(sites, replicas) if tier.distributed else _rate(tier, d)
                    capacity = tier.capacity * (len(replicas) if tier.distributed else 1)
                    links = network.link(f"{name} up", rate), network.link(f"{name} down", rate)
                    known = shared[name] = TierStore(int(capacity * _GIB / block), below), links
                store, (up, down) = known
                below = store if tier.write == "back" else None
                paths: tuple[Sequence[Link], Sequence[Link]] = (up,), (down,)
                share = None
                if tier.distributed:
                    out, into = sites.adapters(engine)
                    paths, share = ((up, into), (out, down)), (replica.id, len(replicas))
                levels[engine].insert(0, Level(tier, store, paths, block, share))
    peers = Peers(sites, _peers(plan, replicas, deployments)) if plan.tiers.peers else None
    return Loader(cluster, network, plan.tiers, policy, levels, sizes, layers, peers)


def _rate(tier: Tier, d: Deployment) -> float:
    host = d.hardware.host.bandwidth * d.hardware.achieved.link * d.pool.tensor_parallel_size
    return host if tier.bandwidth is None else tier.bandwidth


def _adapters(sites: Sites, replicas: Sequence[Replica]) -> float:
    """What the network adapters of all replicas carry in one direction, bytes/s."""
    links = dict.fromkeys(sites.adapters(engine)[0] for replica in replicas for engine in replica.domains)
    return float(sum(link.nominal for link in links))


def _peers(
    plan: Plan, replicas: Sequence[Replica], deployments: Mapping[str, Deployment]
) -> dict[Any, list[tuple[Any, Replica]]]:  # fmt: skip
    """By engine that prefills, those with the same KV caches that it can reach, itself among them."""
    groups: dict[Any, list[tuple[Any, Replica]]] = {}
    home = islands(plan)
    found = {}
    for replica in replicas:
        d = deployments[replica.pool]
        if replica.role != "decode":
            stored = (d.pool.kv_cache_dtype, d.pool.techniques, d.limits.block_size)
            key = (d.model.name, *stored, home[d.pool.fabric])
            for engine in replica.domains:
                found[engine] = groups.setdefault(key, [])
                found[engine].append((engine, replica))
    return found
