"""What a plan asks for beyond replicas behind a router: built and connected to the cluster, or not there at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..configs.borrowing import KVBorrowing
from ..configs.plan import Plan
from ..configs.topology import Disaggregation
from ..costmodels.shapes import model_kv_shape
from ..traces.streams import Stream
from ..traces.table import RequestTable
from .cluster.cluster import Cluster
from .cluster.dynamics import fault_events, make_autoscaler, start_up_ticks
from .cluster.faults import FaultInjector
from .cluster.handoff import Handoff
from .cluster.limbo import Limbo
from .cluster.links import Network
from .cluster.migration import Migrator, Rebalancing
from .cluster.replica import Replica
from .cluster.roles import disaggregated, make_admission, make_decode_router, make_rebalancer
from .cluster.scaling import Scaler
from .cluster.sites import Sites, islands
from .core import Rebalancer, ReplicaView, Router
from .deployment import Deployment
from .keep.borrowing import Borrowing
from .keep.levels import make_loader
from .keep.pins import Pins, Retention, RetentionPolicy
from .keep.retention import check_programs, make_load, make_retention, make_reuse
from .keep.reuse import Reuse
from .keep.tiers import Loader


def wanted(plan: Plan) -> bool:
    """Whether a plan needs any of this."""
    return bool(
        disaggregated(plan) or plan.rebalancer or plan.admission or plan.scaling or plan.faults or plan.retention
        or plan.tiers or plan.kv_borrowing or plan.reuse
    )  # fmt: skip


class Services:
    """The services of a run; those that the plan does not ask for are None.

    network : every link of the run. handoff : between prefill and decode replicas. migrator : of running requests.
    """

    def __init__(
        self, plan: Plan, seed: int, cluster: Cluster, replicas: Sequence[Replica], router: Router,
        deployments: Mapping[str, Deployment], table: RequestTable,
    ) -> None:  # fmt: skip
        self._plan, self._seed, self._cluster, self.replicas = plan, seed, cluster, replicas
        self._deployments = deployments
        self.network = Network(cluster.env)
        self.sites = Sites(self.network, plan.topology, plan.fabric_links())
        for replica in replicas:
            for rank, engine in enumerate(replica.domains):
                name = f"{replica.pool}/{replica.number}" + (f"/{rank}" if len(replica.domains) > 1 else "")
                self.sites.add(engine, deployments[replica.pool], name)
        cluster.admission = make_admission(plan)
        self.handoff = self._handoff(router) if disaggregated(plan) else None
        rebalancer = make_rebalancer(plan)
        self.migrator = self._migrator(rebalancer) if rebalancer else None
        self._pins: list[Pins] = []
        if plan.retention or plan.tiers or plan.reuse:
            for engine in [engine for replica in replicas for engine in replica.domains]:
                engine.rank.pins = pins = Pins(engine)
                self._pins.append(pins)
        self.borrowing = self._borrowing(plan.kv_borrowing) if plan.kv_borrowing else []
        self.scalers = [self._scaler(i) for i in range(len(plan.scaling))]
        check_programs(plan, table)
        self.loader = self._loader() if plan.tiers else None
        self.reuse = self._reuse(table) if plan.reuse else None
        retention = make_retention(plan)
        self.retention = self._retention(retention, table) if retention else None
        self.faults = self._faults() if plan.faults or plan.scaling else None

    def _borrowing(self, spec: KVBorrowing) -> list[Borrowing]:
        """One a pool."""
        pools: dict[str, list[Any]] = {}
        for replica in self.replicas:
            pools.setdefault(replica.pool, []).extend(replica.domains)
        return [Borrowing(self._cluster, spec, e, self._deployments[name]) for name, e in pools.items()]

    def _seen(self, replicas: Sequence[Replica]) -> list[ReplicaView]:
        return self._cluster.seen(replicas)

    def _handoff(self, router: Router) -> Handoff:
        decodes = [r for r in self.replicas if r.role != "prefill"]
        first = self._deployments[decodes[0].pool]
        handoff = Handoff(
            self._cluster, self.sites, self._plan.disaggregation or Disaggregation(), router,
            _begun(make_decode_router(self._plan), self._seed, "decode router"), decodes, self._seen(decodes),
            model_kv_shape(first.model, first.pool.kv_cache_dtype, first.pool.techniques).request_bytes,
            sum(group.count for group in first.model.groups),
        )  # fmt: skip
        self._cluster.handoff = handoff
        for replica in self.replicas:
            for engine in replica.domains:
                engine.rank.hand_off = handoff.hand_off
        return handoff

    def _migrator(self, policy: Rebalancer) -> Migrator:
        groups = list(self._alike())
        bytes_of = {
            replica: model_kv_shape(d.model, d.pool.kv_cache_dtype, d.pool.techniques).request_bytes
            for group in groups for replica in group for d in [self._deployments[replica.pool]]
        }  # fmt: skip
        migrator = Migrator(self._cluster, self.sites, bytes_of, policy)
        self.rebalancing = Rebalancing(
            self._cluster, policy, migrator, [(group, self._seen(group)) for group in groups]
        )
        return migrator

    def _alike(self) -> Iterator[list[Replica]]:
        """Replicas among which requests can move: one model and KV format, connected, serving the same labels."""
        groups: dict[Any, list[Replica]] = {}
        home = islands(self._plan)
        for replica in self.replicas:
            d = self._deployments[replica.pool]
            stored = (d.pool.kv_cache_dtype, d.pool.techniques, d.limits.block_size)
            key = (d.model.name, *stored, home[d.pool.fabric], d.pool.serves, d.lockstep)
            if replica.role != "prefill" and not d.lockstep:
                groups.setdefault(key, []).append(replica)
        yield from groups.values()

    def _loader(self) -> Loader:
        policy = make_load(self._plan)
        assert policy is not None
        loader = make_loader(self._plan, self._cluster, self.sites, policy, self.replicas, self._deployments)
        for pins in self._pins:
            pins.loader = loader
        if self.handoff:
            self.handoff.prefilled = loader.computed
        return loader

    def _reuse(self, table: RequestTable) -> Reuse:
        policy = make_reuse(self._plan)
        assert policy is not None and table.chunks is not None
        begin = getattr(policy, "begin", None)
        if begin:
            begin(Stream(self._seed, "reuse"))
        owner = {e: self._deployments[r.pool] for r in self.replicas for e in r.domains}
        sizes = {
            e: model_kv_shape(d.model, d.pool.kv_cache_dtype, d.pool.techniques).token_bytes for e, d in owner.items()
        }
        layers = {e: sum(group.count for group in d.model.groups) for e, d in owner.items()}
        reuse = Reuse(self._cluster, policy, table.chunks, sizes, layers)
        for pins in self._pins:
            pins.loader = reuse
        return reuse

    def _retention(self, policy: RetentionPolicy, table: RequestTable) -> Retention:
        programs = table.programs
        assert programs is not None
        engines = [(engine, engine.cost) for replica in self.replicas for engine in replica.domains]
        return Retention(self._cluster, policy, engines, programs.next_tool(), programs.tool.names)

    def _scaler(self, number: int) -> Scaler:
        spec = self._plan.scaling[number]
        mine = [r for r in self.replicas if r.pool == spec.pool]
        deployment = self._deployments[spec.pool]
        return Scaler(
            self._cluster, mine, self._seen(mine), spec, make_autoscaler(self._plan, number),
            start_up_ticks(self._plan, deployment), deployment.pool.replicas,
        )  # fmt: skip

    def _faults(self) -> FaultInjector | None:
        self._cluster.limbo = limbo = Limbo(self._cluster, self.replicas)
        if self._plan.faults is None:
            return None
        return FaultInjector(
            self._cluster, self.replicas, self.sites, limbo, self._plan.faults,
            [fault for _, fault in fault_events(self._plan)],
            {name: start_up_ticks(self._plan, d) for name, d in self._deployments.items()}, self._seed,
            [mover for mover in (self.handoff, self.migrator, self.loader, self.reuse) if mover],
        )  # fmt: skip

    def balanced(self) -> bool:
        """Invariant 11: what the links carried is what the services sent, and nothing is under way."""
        ahead = self.loader.prefetcher if self.loader else None
        due = sum(service.bytes_due for service in (self.handoff, self.migrator, self.loader, ahead) if service)
        return self.network.bytes_sent == due and not any(link.flows for link in self.network.links)


def _begun(policy: Any, seed: int, stream: str) -> Any:
    """A policy with its random stream, if it wants one."""
    begin = getattr(policy, "begin", None)
    if begin:
        begin(Stream(seed, stream))
    return policy
