"""Models that live on the same accelerators: pools that take turns, and one pool whose models share their layers."""

from __future__ import annotations

from dataclasses import dataclass

from .strict import check


@dataclass(frozen=True)
class SharedGPUs:
    """Pools whose engines take turns on the same accelerators, one computing at a time.

    pools : their names; as many replicas and accelerators each. Their `gpu_memory_utilization` are parts of one memory.
    weight_space : GiB of an accelerator for weights, which come from the host's memory when their model's turn comes,
        in place of those least recently used; null: each pool keeps its weights within its part.
    quantum : seconds that a model goes on while others wait, from when its weights are there; an
        iteration at least.
    """

    pools: tuple[str, ...]
    weight_space: float | None = None
    quantum: float = 0.5

    def __post_init__(self) -> None:
        check(len(set(self.pools)) >= 2, "pools", self.pools, "the names of two pools at least")
        space = self.weight_space
        check(space is None or space > 0, "weight_space", space, "GiB above 0, or null")
        check(0 < self.quantum <= 1e8, "quantum", self.quantum, "seconds above 0, at most 1e8")


@dataclass(frozen=True)
class SharedBlocks:
    """The pool serves several models, those of its `serves`, that were tuned from one and have most layers in common.

    private_layers : that each model has for itself. What runs in them is a batch a model; in all others, one batch.
    equivalent_layers : of these, those for which the first model's serve as well: with `busy` requests in the batch or
        more, everyone takes the first model's (adaptive assembling).
    """

    private_layers: int
    equivalent_layers: int = 0
    busy: int = 16

    def __post_init__(self) -> None:
        check(self.private_layers >= 0, "private_layers", self.private_layers, "0 or more layers")
        most = self.private_layers
        fits = 0 <= self.equivalent_layers <= most
        check(fits, "equivalent_layers", self.equivalent_layers, f"0 to private_layers = {most}")
        check(self.busy >= 1, "busy", self.busy, "at least 1 request")
