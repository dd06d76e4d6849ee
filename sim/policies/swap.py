"""KV policy: a victim's blocks move to the host and come back later, as in vLLM v0 with `preemption_mode="swap"`."""

from __future__ import annotations

from dataclasses import dataclass

from .recompute import Recompute


@dataclass
class Swap(Recompute):
    """Preemption by swapping; where the host is full, by recomputation. Parameters as `Recompute`."""

    swaps = True
