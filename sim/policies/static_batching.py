"""Batch policy: static batching, the baseline from before continuous batching.

A batch is formed when the previous one has ended, its prompts run together, and its slots stay occupied until the
longest answer is done: who finishes early leaves an empty slot that still costs (as FasterTransformer's dynamic
batching; the comparison of the Orca paper, OSDI'22).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..core import FOREVER, KVPolicy, RankView, Step
from .recompute import Recompute
from .vllm_v0 import admit_whole_prompts


@dataclass
class StaticBatching:
    """Batches of up to `max_num_seqs` requests, start to end."""

    kv: KVPolicy = field(default_factory=lambda: Recompute(reserve="max_model_len"))

    def __post_init__(self) -> None:
        self._size = 0

    def observe(self, step: Step) -> None:
        """Remember how many slots the batch has."""
        if step.admit:
            self._size = len(step.admit)

    def compose(self, view: RankView) -> Step:
        """A new batch when nobody runs, else the decodes of the present one."""
        if view.running == 0:
            return Step(admit=admit_whole_prompts(self.kv, view, view.limits.max_num_seqs, view.free_blocks))
        ghosts = self._size - view.decodes
        return Step(view.decodes, ghosts=ghosts, iterations=FOREVER, wake_on_arrival=False)
