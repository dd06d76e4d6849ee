"""Retention policy: Continuum's KV time to live (arXiv 2511.02230 v6), as in the paper and as in the released fork.

Paper: tau* = argmax over tau in {0} and the gaps S[f] seen of tool f, of P(gap <= tau) (T eta + reload) - tau, where T
is the mean queueing delay of the last `window` requests that came back without their KV cache, eta = -Corr(turns
served, turns to come) over finished programs (1 before there are any), and reload the time to have the context back.
Of equal tau the smallest. Cold start: with at most `enough` gaps in all, the optimum for gaps ~ Exp(1) and eta = 1,
ln(benefit) where the benefit exceeds 1 s; with enough in all but at most `enough` of this tool, the gaps of all tools.

Fork (vLLM 0.10.2): `fork_ttl` seconds, unless the tool's mean gap is longer than that; a tool never seen is pinned.
The paper does not give `window`; ours is 100. Its queue order is `program_fcfs`.
"""

from __future__ import annotations

from array import array
from bisect import insort
from collections import deque
from dataclasses import dataclass
from math import log, sqrt
from typing import TYPE_CHECKING, Literal

import numpy as np

from ...configs.strict import check

if TYPE_CHECKING:
    from ..keep.pins import Turn


@dataclass
class Continuum:
    """variant : "paper" or "fork". gives_way : whether pins make way for any head of the queue that does not fit, the
    latest program's first, or only where nothing could run otherwise. Read literally the paper's deadlock guard is the
    former; pins then give no more than the order of the queue does, which is not what the paper reports."""

    variant: Literal["paper", "fork"] = "paper"
    enough: int = 100
    window: int = 100
    fork_ttl: float = 2.0
    gives_way: bool = False

    forgets = False

    def __post_init__(self) -> None:
        check(self.enough >= 0, "enough", self.enough, "0 or more gaps")
        check(self.window >= 1, "window", self.window, "at least 1 request")
        check(self.fork_ttl >= 0, "fork_ttl", self.fork_ttl, "0 or more seconds")
        self._all = array("d")
        self._by_tool: dict[str, array[float]] = {}
        self._waits: deque[float] = deque(maxlen=self.window)
        self._sums = [0] * 6  # over (turns served k, turns to come r): n, k, r, kk, rr, kr

    def ttl(self, turn: Turn) -> float:
        """See above."""
        gaps = self._by_tool.get(turn.tool, self._all[:0])
        if self.variant == "fork":
            return 0.0 if gaps and sum(gaps) / len(gaps) > self.fork_ttl else self.fork_ttl
        wait = sum(self._waits) / len(self._waits) if self._waits else 0.0
        reload = turn.reload(turn.context)
        if len(self._all) <= self.enough:
            return max(0.0, log(wait + reload)) if wait + reload > 0 else 0.0
        seen = np.frombuffer(gaps if len(gaps) > self.enough else self._all)
        gain = np.arange(1, len(seen) + 1) / len(seen) * (wait * self.eta() + reload) - seen
        best = int(np.argmax(gain))
        return float(seen[best]) if gain[best] > 0 else 0.0

    def eta(self) -> float:
        """How much the turns that a program has had say about those it still has."""
        n, k, r, kk, rr, kr = self._sums
        spread = (n * kk - k * k) * (n * rr - r * r)
        return -(n * kr - k * r) / sqrt(spread) if spread > 0 else 1.0

    def observe_gap(self, tool: str, gap: float) -> None:
        """Sorted, in all and by tool."""
        insort(self._all, gap)
        insort(self._by_tool.setdefault(tool, array("d")), gap)

    def observe_wait(self, wait: float) -> None:
        """Of a request that came back without its KV cache."""
        self._waits.append(wait)

    def observe_end(self, turns: int) -> None:
        """A program of so many turns: (1, turns - 1), (2, turns - 2), ..., (turns, 0)."""
        for k in range(1, turns + 1):
            r = turns - k
            for i, value in enumerate((1, k, r, k * k, r * r, k * r)):
                self._sums[i] += value
