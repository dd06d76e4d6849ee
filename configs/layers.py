"""Which part of a model a token passes, as data: layers that run, columns of the feed-forward blocks that count."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from .strict import check


@dataclass(frozen=True)
class ExecutedLayers:
    """A distribution of executed layers: every layer runs with the same probability.

    share : of the layers that a decoded token runs.
    by_context : the same where it depends on the token's place: (context, share), straight lines between, never rising;
        the batch's mean context stands for all.
    path : "batch": all tokens of an iteration run the same layers; "token": each its own.
    prompts : prompt tokens run no more layers than others (else all of them).
    kv : whether skipped layers keep keys and values ("kept": copied from below), or there are none ("absent").
    mlp_share : of a feed-forward block's columns that a token computes, prompts too.
    """

    share: float = 1.0
    by_context: tuple[tuple[float, ...], ...] = ()
    path: Literal["batch", "token"] = "batch"
    prompts: bool = False
    kv: Literal["kept", "absent"] = "kept"
    mlp_share: float = 1.0

    def __post_init__(self) -> None:
        for key in ("share", "mlp_share"):
            check(0 < getattr(self, key) <= 1, key, getattr(self, key), "a share above 0, at most 1")
        for point in self.by_context:
            fine = len(point) == 2 and point[0] >= 0 and 0 < point[1] <= 1
            check(fine, "by_context", list(point), "[context, share above 0, at most 1]")
        falling = all(a[0] < b[0] and a[1] >= b[1] for a, b in pairwise(self.by_context))
        check(falling, "by_context", [list(p) for p in self.by_context], "rising contexts, shares that never rise")
        check(not (self.by_context and self.share < 1), "share", self.share, "1, or no by_context")
        same = self.path == "batch" and not self.by_context
        check(same or not self.prompts, "prompts", self.prompts, "false, or one share and one path for the batch")
        check(self.prompts or self.kv == "kept", "kv", self.kv, "kept, or prompts: true: their tokens need all layers")

    def at(self, context: float) -> float:
        """The share of layers that run at a mean context."""
        points = self.by_context
        if not points:
            return self.share
        if context <= points[0][0]:
            return points[0][1]
        for (x0, y0), (x1, y1) in pairwise(points):
            if context <= x1:
                return y0 + (y1 - y0) * (context - x0) / (x1 - x0)
        return points[-1][1]
