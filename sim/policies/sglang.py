"""Batch policy: SGLang's scheduler: prompts first, in steps of their own; decodes when no prompt can run.

Source: sgl-project/sglang `managers/{scheduler,schedule_policy}.py` (0.5.x): `PrefillAdder` fills a batch of prompts
from the queue; while there is one, it runs and decodes wait (with `mixed_chunk` they join it). A prompt that exceeds
the chunk is cut, and its next chunk begins the next batch of prompts. With the prefix cache on, a request whose prompt
begins with blocks that the batch at hand computes waits for the next one, which finds them (in-batch prefix caching:
SGLang puts who shares 32 tokens or more to the end of the order).
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

    caches_prefixes = True

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
        promised: dict[int, int] = {}
        taken = view.free_blocks - free
        for request, tokens in chunks:
            view.promise(request, request.computed + tokens, promised)
        for request in view.waiting:
            if len(admit) >= slots or budget <= 0:
                break
            found, idle = view.lookup(request, promised, taken)
            if found and found > view.lookup(request, {}, taken)[0]:
                iterations = 1
                continue
            cached = found * limits.block_size
            left = request.target - cached
            if left > budget and not limits.enable_chunked_prefill:
                break
            tokens = min(left, budget)
            take, need = self.kv.admission(request, cached + tokens, view)
            if need - found + idle > free:
                break
            admit.append((request, tokens, take))
            view.promise(request, cached + tokens, promised)
            free -= take - found + idle
            taken += take - found
            budget -= tokens
        return chunks, admit, iterations
