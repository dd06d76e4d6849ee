"""Batch policy: Orca's iteration-level scheduling with selective batching (OSDI'22).

Source: `orca_scheduler` and `orca_block_space_manager` of microsoft/sarathi-serve (`osdi-sarathi-serve`, ceaa0660).
Every step runs all decodes and the whole prompts of whoever is admitted; there is no token budget. A request holds
blocks for `max_model_len` tokens from the start, so nobody is ever preempted.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..core import FOREVER, Admission, KVPolicy, RankView, Step
from .recompute import Recompute


@dataclass
class Orca:
    """Orca's scheduler; `max_num_seqs` is its batch size."""

    kv: KVPolicy = field(default_factory=lambda: Recompute(reserve="max_model_len"))

    def compose(self, view: RankView) -> Step:
        """All decodes, and all prompts that find a slot and memory."""
        slots = view.limits.max_num_seqs - view.running
        free = view.free_blocks
        admit: list[Admission] = []
        for request in view.waiting:
            if len(admit) >= slots:
                break
            take, need = self.kv.admission(request, request.target, view)
            if need > free:
                break
            admit.append((request, request.target, take))
            free -= take
        if admit:
            return Step(view.decodes, admit=admit)
        blocked = slots <= 0 or (bool(view.waiting) and view.fifo)
        return Step(view.decodes, iterations=FOREVER, wake_on_arrival=not blocked)
