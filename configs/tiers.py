"""Where KV caches go that have no room on the device: host memory, SSD, a remote pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import InputError
from .engine import PolicyChoice
from .strict import check


@dataclass(frozen=True)
class Tier:
    """One level below the device.

    capacity : GiB, of each replica's own or of the one that all share. bandwidth : bytes/s in one direction; None = of
        the hardware card's link to the host. latency : seconds of a call, besides its bytes.
    group : neighbouring KV blocks that one call moves; None = a transfer is one call.
    shared : one for all replicas, whose transfers share its bandwidth fairly.
    distributed : a shared one in the memory of all replicas' nodes (Mooncake's store). Each adds `capacity`; what moves
        goes over the network adapter of who loads or writes, and over those of all others, which hold equal parts.
    write : "through", what a request has written is copied when it ends; "back", what the level above evicts comes
    here,
        its bytes counted but in nobody's way.
    compression : how many times smaller a KV cache is there and on the way.
    """

    name: str
    capacity: float
    bandwidth: float | None = None
    latency: float = 0.0
    group: int | None = None
    shared: bool = False
    distributed: bool = False
    write: Literal["through", "back"] = "through"
    compression: float = 1.0

    def __post_init__(self) -> None:
        check(self.capacity > 0, "capacity", self.capacity, "GiB above 0")
        check(self.bandwidth is None or self.bandwidth > 0, "bandwidth", self.bandwidth, "bytes/s above 0")
        check(0 <= self.latency <= 1e8, "latency", self.latency, "0 to 1e8 seconds")
        check(self.group is None or self.group >= 1, "group", self.group, "at least 1 block")
        check(self.compression >= 1, "compression", self.compression, "at least 1")
        if self.distributed and not (self.shared and self.bandwidth is None):
            found = "true, not shared" if not self.shared else f"true, with a bandwidth of {self.bandwidth:g}"
            raise InputError("distributed", found, "shared: true and no bandwidth: the adapters have one")
        if self.shared and self.write == "back":
            raise InputError(
                "write", "back, on a tier that replicas share", "through: evictions have no time of their own"
            )


@dataclass(frozen=True)
class Tiers:
    """levels : from the fastest to the slowest. peers : the prefix caches of other replicas that prefill are sources
    too; a prefix is copied from the one that has most of it. load : when a KV cache is loaded rather than computed.
    overlap : a request goes on when all has arrived ("serial"), or when the rest hides behind its prefill, layer by
        layer.
    prefetch : requests at the front of each queue whose KV caches are brought up to the fastest tier meanwhile.
    """

    levels: tuple[Tier, ...] = ()
    peers: bool = False
    load: PolicyChoice = "load_always"
    overlap: Literal["serial", "layer_wise"] = "layer_wise"
    prefetch: int = 0

    def __post_init__(self) -> None:
        check(bool(self.levels) or self.peers, "levels", self.levels, "at least one tier, or peers")
        check(self.prefetch >= 0, "prefetch", self.prefetch, "0 or more requests")
        if self.prefetch and len(self.levels) < 2:
            raise InputError("prefetch", f"{self.prefetch}, with one tier", "a slower tier below it to fetch from")
        names = [tier.name for tier in self.levels]
        if len(set(names)) < len(names):
            raise InputError("levels", "two tiers of one name", "a name of its own for each tier")
