"""KV policy: a victim's blocks move to the host and come back later, as in vLLM v0 with `preemption_mode="swap"`."""

from __future__ import annotations

from dataclasses import dataclass

from ...configs.strict import check
from .recompute import Recompute


@dataclass
class Swap(Recompute):
    """Preemption by swapping; where the host is full, by recomputation. Parameters as `Recompute`.

    group : neighbouring blocks that one copy moves; vLLM copies block by block, FastSwitch allocates in groups.
    """

    group: int = 1

    swaps = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.group >= 1, "group", self.group, "at least 1 block")
