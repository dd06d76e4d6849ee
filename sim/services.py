"""What a plan asks for beyond replicas behind a router: built and connected to the cluster, or not there at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..configs.plan import Plan
from ..configs.topology import Disaggregation
from ..costmodels.base import ticks
from ..costmodels.shapes import model_kv_shape
from ..traces.streams import Stream
from .cluster import Cluster
from .core import Router
from .deploy import Deployment
from .handoff import Handoff
from .links import Network
from .migration import Migrator, Rebalancing
from .replica import Replica, views
from .roles import disaggregated, make_decode_router, make_rebalancer
from .sites import Sites


class Services:
    """The services of a run; those that the plan does not ask for are None.

    network : every link of the run. handoff : between prefill and decode replicas. migrator : of running requests.
    """

    def __init__(
        self, plan: Plan, seed: int, cluster: Cluster, replicas: Sequence[Replica], router: Router,
        deployments: Mapping[str, Deployment],
    ) -> None:  # fmt: skip
        self.network = Network(cluster.env)
        self.sites = Sites(self.network, plan.topology)
        for replica in replicas:
            for rank, engine in enumerate(replica.domains):
                name = f"{replica.pool}/{replica.number}" + (f"/{rank}" if len(replica.domains) > 1 else "")
                self.sites.add(engine, deployments[replica.pool], name)
        self.handoff: Handoff | None = None
        if disaggregated(plan):
            self.handoff = self._handoff(plan, seed, cluster, replicas, router, deployments)
        self.migrator: Migrator | None = None
        policy = make_rebalancer(plan)
        if policy:
            first = deployments[replicas[0].pool]
            shape = model_kv_shape(first.model, first.pool.kv_cache_dtype)
            self.migrator = Migrator(cluster, self.sites, shape.request_bytes, policy)
            movable = [r for r in replicas if r.role != "prefill"]
            seen = views(movable, cluster.env, ticks(plan.router.view_age))
            self.rebalancing = Rebalancing(cluster, policy, self.migrator, lambda: (movable, seen))

    def _handoff(
        self, plan: Plan, seed: int, cluster: Cluster, replicas: Sequence[Replica], router: Router,
        deployments: Mapping[str, Deployment],
    ) -> Handoff:  # fmt: skip
        spec = plan.disaggregation or Disaggregation()
        decodes = [r for r in replicas if r.role != "prefill"]
        model, pool = deployments[decodes[0].pool].model, deployments[decodes[0].pool].pool
        handoff = Handoff(
            cluster, self.sites, spec, router,
            _begun(make_decode_router(plan), seed, "decode router"),
            decodes, views(decodes, cluster.env, ticks(plan.router.view_age)),
            model_kv_shape(model, pool.kv_cache_dtype).request_bytes,
            sum(group.count for group in model.groups),
        )  # fmt: skip
        cluster.handoff = handoff
        for replica in replicas:
            for engine in replica.domains:
                engine.rank.hand_off = handoff.hand_off
        return handoff

    def balanced(self) -> bool:
        """Invariant 11: what the links carried is what the services sent, and nothing is under way."""
        due = sum(service.bytes_due for service in (self.handoff, self.migrator) if service)
        return self.network.bytes_sent == due and not any(link.flows for link in self.network.links)


def _begun(policy: Any, seed: int, stream: str) -> Any:
    """A policy with its random stream, if it wants one."""
    begin = getattr(policy, "begin", None)
    if begin:
        begin(Stream(seed, stream))
    return policy


def wanted(plan: Plan) -> bool:
    """Whether a plan needs any of this."""
    return disaggregated(plan) or plan.rebalancer is not None
