"""Where replicas stand and how requests move between them: links, roles and the hand-off of a plan."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import inf
from typing import Literal

from ..errors import InputError, unknown_name
from .engine import PolicyChoice
from .strict import check

LONGEST = 1e8  # seconds that any wait may take


@dataclass(frozen=True)
class Topology:
    """How the accelerators of a plan share nodes and network adapters.

    nic : whether each accelerator has an adapter of its own with the card's `network` figures, or those of a node
        share one of as many times the bandwidth.
    placement : "packed" fills node after node in order of the pools; "by_pool" begins every pool at a fresh node.
    """

    nic: Literal["accelerator", "node"] = "accelerator"
    placement: Literal["packed", "by_pool"] = "packed"


@dataclass(frozen=True)
class FabricLink:
    """What connects one fabric with another, one way: all KV caches that go from there to here share it.

    bandwidth : bytes/s that it delivers in all. latency : seconds, besides those of the networks at both ends.
    """

    bandwidth: float
    latency: float

    def __post_init__(self) -> None:
        check(self.bandwidth >= 1e6, "bandwidth", self.bandwidth, "bytes/s, 1e6 or more (100 Gb/s are 12.5e9)")
        check(0 <= self.latency <= 1, "latency", self.latency, "seconds, 0 to 1 (2 ms are 0.002)")


def fabric_pairs(
    links: Mapping[str, FabricLink], where: str, kind: str, known: Collection[str]
) -> dict[tuple[str, str], FabricLink]:
    """Links by (from, to), of keys such as `east->west`. Raises `InputError` at a key that does not name two of
    `known`, which are `kind`s."""
    pairs = {}
    for key, link in links.items():
        place, (source, arrow, target) = f"{where}.{key}", key.partition("->")
        check(bool(source and arrow and target), place, key, "two names, as in `east->west`")
        for name in (source, target):
            if name not in known:
                raise unknown_name(place, kind, name, known)
        if source == target:
            raise InputError(place, f"from {source} to itself", "two names: within one the adapters are the links")
        pairs[source, target] = link
    return pairs


@dataclass(frozen=True)
class Disaggregation:
    """How a request gets from its prefill replica to its decode replica.

    decode_router : picks the decode replica, unless the plan's router picks both. choose : when.
    direction : "pull", the decode replica fetches the KV cache when it has room, a latency after asking (DistServe,
        vLLM with NIXL); "push", the prefill replica is told of the room and sends (Splitwise). Until the KV cache has
        left, the prefill replica holds its blocks.
    mode : the transfer begins when the prompt is computed ("serial"); or the KV cache of a layer leaves while the next
        layer is computed ("layer_wise"), that of a chunk while the next chunk is ("chunk_wise").
    backlog : the share of its blocks that a decode replica promises to requests that do not run yet, before it makes
        the next one wait (DistServe: 5 %).
    lease : seconds that a prefill replica keeps an unread KV cache; then it is lost, and `expired` says whether the
        decode replica recomputes the prompt or the request fails (vLLM's `kv_load_failure_policy`).
    local_prefill_tokens : prompts of at most so many uncached tokens are computed where they are decoded.
    keep_mixed : a replica with role mixed decodes the prompts that it has computed, instead of handing them over.
    near : a prompt is decoded on the fabric where it was computed, if any pool there decodes.
    """

    decode_router: PolicyChoice = "least_outstanding"
    choose: Literal["arrival", "hand_off"] = "hand_off"
    direction: Literal["pull", "push"] = "pull"
    mode: Literal["serial", "layer_wise", "chunk_wise"] = "serial"
    backlog: float = 0.05
    lease: float = inf
    expired: Literal["recompute", "fail"] = "recompute"
    local_prefill_tokens: int = 0
    keep_mixed: bool = False
    near: bool = False

    def __post_init__(self) -> None:
        check(0 < self.backlog <= 1, "backlog", self.backlog, "a share above 0, at most 1")
        check(0 < self.lease <= LONGEST or self.lease == inf, "lease", self.lease, f"seconds, at most {LONGEST:g}")
        check(self.local_prefill_tokens >= 0, "local_prefill_tokens", self.local_prefill_tokens, "0 or more tokens")
        if self.near and (self.choose == "arrival" or self.local_prefill_tokens):
            found = "true, and who decodes is chosen before it is known who computes the prompt"
            raise InputError("near", found, "choose: hand_off, without local_prefill_tokens")
