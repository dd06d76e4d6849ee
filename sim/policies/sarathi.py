"""Batch policy: Sarathi-Serve's stall-free batching (OSDI'24): decodes first, prompts in chunks of what is left.

Source: `sarathi_scheduler` of microsoft/sarathi-serve (`osdi-sarathi-serve`, ceaa0660). The chunk size is the token
budget of an iteration, `max_num_batched_tokens`. A prompt's blocks are all reserved when it is admitted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..core import Admission, KVPolicy, RankView, Step
from .prompt_parts import prompt_parts
from .recompute import Recompute


def _kv() -> KVPolicy:
    return Recompute(reserve="prompt", watermark=0.01, every_decode_needs_a_free_block=True, arrival_order=True)


@dataclass
class Sarathi:
    """Sarathi-Serve's scheduler.

    batching : "stall_free" is the paper's; "chunked_prefills_only" is its ablation that never mixes and alternates
        between a step of chunks and a step of decodes. (The other ablation, hybrid batching only, is "stall_free"
        with `max_num_batched_tokens` = `max_model_len`.)
    """

    kv: KVPolicy = field(default_factory=_kv)
    batching: Literal["stall_free", "chunked_prefills_only"] = "stall_free"

    def __post_init__(self) -> None:
        self._decodes_next = False

    def observe(self, step: Step) -> None:
        """After chunks, decodes have their turn."""
        self._decodes_next = bool(step.chunks or step.admit)

    def compose(self, view: RankView) -> Step:
        """Decodes, then prompts under way, then new ones, within the budget."""
        limits = view.limits
        mixed = self.batching == "stall_free"
        decodes = view.decodes
        if not mixed and decodes and (self._decodes_next or view.preempted):  # whoever was evicted was so for them
            return Step(decodes)
        budget = limits.max_num_batched_tokens - (decodes if mixed else 0)
        free = view.free_blocks - (view.decode_demand if mixed else 0)
        chunks, budget, iterations = prompt_parts(view, budget)
        slots = limits.max_num_seqs - view.running
        admit: list[Admission] = []
        for request in view.waiting:
            if len(admit) >= slots or budget <= 0:
                break
            tokens = min(request.target, budget)
            take, need = self.kv.admission(request, tokens, view)
            if need > free:
                break
            admit.append((request, tokens, take))
            free -= take
            budget -= tokens
        if not mixed and (chunks or admit):
            return Step(0, chunks, admit)
        if admit or view.preempted:
            return Step(decodes, chunks, admit)
        blocked = slots <= 0 or budget <= 0 or (bool(view.waiting) and view.fifo)
        return Step(decodes, chunks, iterations=iterations, wake_on_arrival=not blocked)
