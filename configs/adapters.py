"""LoRA adapters of a plan: how many, how large, who asks for which, and where they are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .strict import check


@dataclass(frozen=True)
class Adapters:
    """One adapter, or none, a request. All of them are in the host's memory.

    count : adapters. ranks : adapter i has rank `ranks[i % len(ranks)]`.
    popularity : which adapter a request asks for. "model": the one of its label in the trace's `model` column; "power":
        drawn, adapter i in proportion to (i + 1) ** -alpha; "uniform": drawn, all alike; "distinct": one after the
        other; "identical": the first.
    targets : the matrices that are adapted, by their names in the engine (`qkv_proj`, `o_proj`, `gate_up_proj`, ...).
    memory : "unified": pages in the KV cache's memory, fetched on demand and kept while nobody needs the room (S-LoRA);
        "static": all adapters on the device from the start, and the KV cache so much smaller.
    prefetch : a fetch begins when its request comes to the engine, not when it is admitted.
    """

    count: int
    ranks: tuple[int, ...] = (16,)
    popularity: Literal["model", "power", "uniform", "distinct", "identical"] = "power"
    alpha: float = 1.0
    targets: tuple[str, ...] = ("qkv_proj", "o_proj")
    memory: Literal["unified", "static"] = "unified"
    prefetch: bool = True

    def __post_init__(self) -> None:
        check(self.count >= 1, "count", self.count, "at least 1")
        check(bool(self.ranks) and min(self.ranks) >= 1, "ranks", self.ranks, "ranks of at least 1, one or more")
        check(self.alpha >= 0, "alpha", self.alpha, "0 or more")
        check(bool(self.targets), "targets", self.targets, "at least one matrix")

    def rank(self, adapter: int) -> int:
        """The rank of an adapter."""
        return self.ranks[adapter % len(self.ranks)]
