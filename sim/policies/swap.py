"""KV policy: a victim's blocks move to the host and come back later, as in vLLM v0 with `preemption_mode="swap"`.

With groups, kept copies and copies beside the iterations it is FastSwitch's (`sim.kv.swapspace`). Not modelled of that:
an iteration that goes on while the copies of another request take longer than it does.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...configs.strict import check
from .recompute import Recompute


@dataclass
class Swap(Recompute):
    """Preemption by swapping; where the host is full, by recomputation. Parameters as `Recompute`.

    group : neighbouring blocks that one copy moves; vLLM copies block by block, FastSwitch allocates in groups.
    keep : copies stay on the host when a request comes back, so that only what is newer goes out with it again.
    overlap : an iteration runs beside its copies, layer by layer, and takes as long as the longer of the two.
    """

    group: int = 1
    keep: bool = False
    overlap: bool = False

    swaps = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.group >= 1, "group", self.group, "at least 1 block")
