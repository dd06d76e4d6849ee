"""Where engines stand: nodes, their links, and the path between any two of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ...configs.plan import Plan
from ...configs.topology import FabricLink, Topology
from ...costmodels.base import ticks
from ..deployment import Deployment
from .links import Link, Network


class Site(NamedTuple):
    """One engine's place: its node, its links inside the node and its adapters, out and in. latency : ticks."""

    node: int
    fabric: str
    inside: tuple[Link, Link]
    outside: tuple[Link, Link]
    latency_inside: int
    latency_outside: int


class Sites:
    """The sites of all engines. A node holds accelerators of one kind; replicas fill nodes in order.

    links : between fabrics, by (from, to).
    """

    def __init__(self, network: Network, topology: Topology, links: Mapping[tuple[str, str], FabricLink]) -> None:
        self.network = network
        self._topology = topology
        self._sites: dict[Any, Site] = {}
        self._nodes = 0
        self._filling: dict[str, list[int]] = {}  # hardware (and pool) -> [node, accelerators of it in use]
        self._between = {
            ends: (network.pipe("->".join(ends), link.bandwidth), ticks(link.latency)) for ends, link in links.items()
        }
        self._adapters: dict[int, tuple[Link, Link]] = {}  # of nodes that share one

    def add(self, engine: Any, deployment: Deployment, name: str) -> None:
        """Place the engine `name` on the next free accelerators."""
        hardware, pool = deployment.hardware, deployment.pool
        ranks = pool.tensor_parallel_size * pool.pipeline_parallel_size
        node = self._node(deployment, ranks)
        share = hardware.achieved.link
        inside = self._pair(f"{name} link", hardware.link.bandwidth * ranks * share)
        if self._topology.nic == "node":
            whole = hardware.network.bandwidth * hardware.gpus_per_node * share
            if node not in self._adapters:
                self._adapters[node] = self._pair(f"node {node} network", whole)
            outside = self._adapters[node]
        else:
            outside = self._pair(f"{name} network", hardware.network.bandwidth * ranks * share)
        self._sites[engine] = Site(
            node, pool.fabric, inside, outside, ticks(hardware.link.latency), ticks(hardware.network.latency)
        )

    def _pair(self, name: str, rate: float) -> tuple[Link, Link]:
        return self.network.link(f"{name} out", rate), self.network.link(f"{name} in", rate)

    def _node(self, deployment: Deployment, ranks: int) -> int:
        key = f"{deployment.hardware.name}/{deployment.pool.fabric}"
        if self._topology.placement == "by_pool":
            key = f"{key}/{deployment.pool.name}"
        size = deployment.hardware.gpus_per_node
        filling = self._filling.get(key)
        if filling is None or filling[1] + ranks > size:
            filling = self._filling[key] = [self._nodes, 0]
            self._nodes += max(1, -(-ranks // size))
        filling[1] += ranks
        return filling[0]

    def path(self, source: Any, target: Any) -> tuple[tuple[Link, ...], int]:
        """Links from one engine to another, and the latency in ticks: inside the node, or over the network, and from
        one fabric to another."""
        if source is target:
            return (), 0
        a, b = self._sites[source], self._sites[target]
        if a.node == b.node:
            return (a.inside[0], b.inside[1]), max(a.latency_inside, b.latency_inside)
        latency = max(a.latency_outside, b.latency_outside)
        if a.fabric == b.fabric:
            return (a.outside[0], b.outside[1]), latency
        pipe, further = self._between[a.fabric, b.fabric]
        return (a.outside[0], pipe, b.outside[1]), latency + further

    def fabric(self, engine: Any) -> str:
        """Where an engine stands."""
        return self._sites[engine].fabric

    def between(self, name: str) -> Link:
        """The link between two fabrics."""
        return next(pipe for pipe, _ in self._between.values() if pipe.name == name)

    def adapters(self, engine: Any) -> tuple[Link, Link]:
        """The network adapters of an engine, out and in."""
        return self._sites[engine].outside

    def links(self, engine: Any) -> tuple[Link, ...]:
        """All links of an engine."""
        site = self._sites[engine]
        return (*site.inside, *site.outside)


def islands(plan: Plan) -> dict[str, str]:
    """By fabric, the first of the fabrics that all reach each other, both ways: KV caches go anywhere among them."""
    links = plan.fabric_links()
    members: dict[str, list[str]] = {}
    home = {}
    for fabric in dict.fromkeys(pool.fabric for pool in plan.pools):
        near = (
            first for first, others in members.items()
            if all((fabric, other) in links and (other, fabric) in links for other in others)
        )  # fmt: skip
        home[fabric] = next(near, fabric)
        members.setdefault(home[fabric], []).append(fabric)
    return home
