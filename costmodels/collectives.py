"""Seconds of messages between accelerators, from bytes, ranks and links."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, log2

from ..configs.device import HardwareCard, Link
from .operators import Collective


@dataclass(frozen=True)
class Ranks:
    """Accelerators that exchange messages: `per_node` of them share a node's `link`, nodes share the `network`.

    Inside a node a collective pays the link's latency once: kernels over peer memory take 4.2 to 5.6 us for 1 KB on 2,
    4 and 8 accelerators alike (vLLM's custom all-reduce in the aiconfigurator tables). Across nodes it is hierarchical:
    inside the node, then between equal ranks of the nodes (a tree's latency, a ring's bytes), then inside again.

    share : achieved share of a link's bandwidth.
    """

    ranks: int
    per_node: int
    link: Link
    network: Link
    share: float

    @property
    def nodes(self) -> int:
        return ceil(self.ranks / self.per_node)

    def all_reduce(self, size: float) -> float:
        """Every rank holds `size` bytes and ends with the sum: a reduce-scatter and an all-gather in one kernel."""
        return self._inside(2 * size) + self._between(2 * size, steps=2)

    def all_gather(self, size: float) -> float:
        """Every rank ends with `size` bytes, an equal part from each."""
        return self._inside(size) + self._between(size, steps=1)

    def reduce_scatter(self, size: float) -> float:
        """Every rank holds `size` bytes and ends with its part of the sum: an all-gather backwards."""
        return self.all_gather(size)

    def all_to_all(self, size: float) -> float:
        """Every rank sends `size` bytes, an equal part to each; link and network work at the same time."""
        inside = size * (self.per_node - 1) / self.ranks / (self.link.bandwidth * self.share)
        between = size * (self.ranks - self.per_node) / self.ranks / (self.network.bandwidth * self.share)
        return (self.network if self.nodes > 1 else self.link).latency + max(inside, between)

    def _inside(self, size: float) -> float:
        if self.per_node == 1:
            return 0.0
        sent = size * (self.per_node - 1) / self.per_node
        return self.link.latency + sent / (self.link.bandwidth * self.share)

    def _between(self, size: float, steps: int) -> float:
        if self.nodes == 1:
            return 0.0
        sent = size / self.per_node * (self.nodes - 1) / self.nodes
        return steps * ceil(log2(self.nodes)) * self.network.latency + sent / (self.network.bandwidth * self.share)


def ranks_of(hardware: HardwareCard, ranks: int, stride: int = 1) -> Ranks:
    """`ranks` accelerators of one kind, every `stride`-th of neighbours."""
    per_node = max(1, min(ranks, hardware.gpus_per_node // stride))
    return Ranks(ranks, per_node, hardware.link, hardware.network, hardware.achieved.link)


def collective_seconds(hardware: HardwareCard, operator: Collective, rows: int) -> float:
    """Seconds of an operator of a stage with `rows` rows."""
    ranks = ranks_of(hardware, operator.ranks, operator.stride)
    kinds: dict[str, Callable[[float], float]] = {
        "all_reduce": ranks.all_reduce,
        "all_gather": ranks.all_gather,
        "reduce_scatter": ranks.reduce_scatter,
        "all_to_all": ranks.all_to_all,
    }
    return kinds[operator.kind](rows * operator.row_bytes)


def point_to_point(link: Link, size: float, share: float = 1.0) -> float:
    """Seconds to send `size` bytes over one link."""
    return link.latency + size / (link.bandwidth * share)
