"""Two streams on one accelerator: prompts and decodes at the same time, each on a share of its multiprocessors."""

from __future__ import annotations

from dataclasses import dataclass

from .strict import check


@dataclass(frozen=True)
class Streams:
    """How an operator's speed follows from its share of the multiprocessors (SMs); assumptions until they are measured.

    compute_saturation : share of the SMs from which arithmetic gets no faster.
    bandwidth_saturation : share of the SMs that can draw the whole memory bandwidth.
    """

    compute_saturation: float = 1.0
    bandwidth_saturation: float = 0.4

    def __post_init__(self) -> None:
        for key in ("compute_saturation", "bandwidth_saturation"):
            share = getattr(self, key)
            check(0 < share <= 1, key, share, "a share above 0, at most 1")
