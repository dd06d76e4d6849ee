"""Batch policy: SGLang's scheduler: prompts first, in steps of their own; decodes when no prompt can run.

Source: sgl-project/sglang `managers/{scheduler,schedule_policy}.py` (0.5.x): `PrefillAdder` fills a batch of prompts
from the queue; while there is one, it runs and decodes wait (with `mixed_chunk` they join it). A prompt that exceeds
the chunk is cut, and its next chunk begins the next batch of prompts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..core import FOREVER, Admission, KVPolicy, Part, RankView, Step
from .prompt_parts import prompt_parts
from .sglang_retract import SglangRetract


@dataclass
class Sglang:
    """SGLang's scheduler.

    mixed_chunk : `--enable-mixed-chunk`: decodes run beside the prompts and count against their budget.

    `max_num_batched_tokens` is `chunked_prefill_size` where prompts may be cut, else `max_prefill_tokens`;
    `max_num_seqs` is `max_running_requests`.
    """

    kv: KVPolicy = field(default_factory=SglangRetract)
    mixed_chunk: bool = False

    def compose(self, view: RankView) -> Step:
        """A batch of prompts if there can be one, else the decodes."""
        decodes = view.decodes
        beside = decodes if self.mixed_chunk else 0
        if view.preempted:  # nobody comes in on the step that retracted
            return Step(decodes)
        chunks, admit, iterations = self._prompts(view, beside)
        if chunks or admit:
            return Step(beside, chunks, admit, iterations=1 if admit else iterations)
        full = view.limits.max_num_seqs <= view.running
        blocked = full or (bool(view.waiting) and view.fifo)
        return Step(decodes, iterations=FOREVER, wake_on_arrival=not blocked)

    def _prompts(self, view: RankView, beside: int) -> tuple[list[Part], list[Admission], int]:
        """Parts of running prompts, new ones, and how often the former may be repeated."""
        limits = view.limits
        budget = limits.max_num_batched_tokens - beside
        free = view.free_blocks - (view.decode_demand if beside else 0)
        chunks, budget, iterations = prompt_parts(view, budget)
        for request, tokens in chunks:
            free -= max(0, limits.blocks(request.computed + tokens) - request.blocks)
        slots = limits.max_num_seqs - view.running
        admit: list[Admission] = []
        for request in view.waiting:
            if len(admit) >= slots or budget <= 0:
                break
            if request.target > budget and not limits.enable_chunked_prefill:
                break
            tokens = min(request.target, budget)
            take, need = self.kv.admission(request, tokens, view)
            if need > free:
                break
            admit.append((request, tokens, take))
            free -= take
            budget -= tokens
        return chunks, admit, iterations
