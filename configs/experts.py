"""How a pool deploys the experts of its model: who is asked for, copies, what stays in the host's memory, variants."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from .strict import check


@dataclass(frozen=True)
class ExpertVariants:
    """Fine-tunes of the model that replace some of its experts (ExpertWeave).

    count : variants; tokens are spread evenly over them and the model itself.
    mean_share, largest_share : of a layer's experts that a variant replaces, on average and in the layer with most.
    layout : "tight": room for as many as each layer has (virtual memory); "padded": in every layer for as many as in
        the one with most.
    """

    count: int
    mean_share: float
    largest_share: float | None = None
    layout: Literal["tight", "padded"] = "tight"

    def __post_init__(self) -> None:
        check(self.count >= 1, "count", self.count, "at least 1")
        check(0 < self.mean_share <= 1, "mean_share", self.mean_share, "a share above 0, at most 1")
        most = self.largest
        check(self.mean_share <= most <= 1, "largest_share", most, f"from mean_share = {self.mean_share:g} to 1")

    @property
    def largest(self) -> float:
        """The share in the layer with most."""
        return self.mean_share if self.largest_share is None else self.largest_share


@dataclass(frozen=True)
class Experts:
    """skew : of the popularity: expert i is chosen in proportion to (i + 1) ** -skew; 0 = all alike.

    redundant : further copies of the most loaded experts, with expert parallelism.
    balanced : experts are placed on ranks by load (EPLB), not one after the other.
    resident : share of a rank's experts, the most popular ones, in device memory; others are fetched from the host when
        a token visits them. predicted : share of those that are known beforehand: their fetch hides behind the experts'
        own time (ExpertFlow's predictor).
    pregated : routing is known before the layers run (Read-ME): all fetches hide behind all matrices of a layer.
    overlap : a batch runs as two microbatches where that is faster: while the tokens of one travel to and from their
        experts, the matrices of the other are computed (DeepSeek-V3, CloudMatrix384).
    lockstep : data-parallel ranks wait for the slowest in every iteration. False: each rank takes what a batch as its
        own on all ranks would; for large, well-balanced groups.
    """

    skew: float = 0.0
    redundant: int = 0
    balanced: bool = False
    resident: float = 1.0
    predicted: float = 0.0
    pregated: bool = False
    variants: ExpertVariants | None = None
    overlap: bool = False
    lockstep: bool = True

    def __post_init__(self) -> None:
        check(self.skew >= 0, "skew", self.skew, "0 or more")
        check(self.redundant >= 0, "redundant", self.redundant, "0 or more copies")
        check(0 < self.resident <= 1, "resident", self.resident, "a share above 0, at most 1")
        check(0 <= self.predicted <= 1, "predicted", self.predicted, "a share from 0 to 1")

    @property
    def even(self) -> bool:
        """Whether all experts are visited alike and in device memory, once."""
        return replace(self, pregated=False, overlap=False, lockstep=True) == EVEN


EVEN = Experts()
