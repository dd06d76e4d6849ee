"""Batch policy: the unified scheduler of vLLM v1, one token budget for prompts and decodes.

Source: vllm-project/vllm `v1/core/sched/scheduler.py` (00024d31). A request has no phase: running ones take what
they need of the budget first, in list order; then waiting ones while budget, slots and blocks last. The first that
does not fit ends the step (head of line). Nobody is admitted in a step that had to preempt.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ...configs.strict import check
from ..core import FOREVER, Admission, KVPolicy, Part, RankView, Step
from .recompute import Recompute


@dataclass
class VllmV1:
    """vLLM v1's scheduler; its budgets are the engine arguments.

    watermark : share of all blocks that an admission leaves free, unless it is the first thing scheduled.
    """

    kv: KVPolicy = field(default_factory=Recompute)
    watermark: float = 0.0

    caches_prefixes = True

    def __post_init__(self) -> None:
        check(0 <= self.watermark < 1, "watermark", self.watermark, "a share of at least 0 and below 1")

    def compose(self, view: RankView) -> Step:
        """Running requests, then the queue."""
        limits = view.limits
        budget = limits.max_num_batched_tokens
        decodes = view.decodes
        chunks: list[Part] = []
        free = view.free_blocks - view.decode_demand
        iterations = FOREVER
        if view.prefills or decodes > budget:
            decodes, chunks = self._running(view)
            budget -= decodes
            for request, tokens in chunks:
                budget -= tokens
                free -= max(0, limits.blocks(request.computed + tokens) - request.blocks)
                iterations = min(iterations, (request.target - request.computed) // tokens)
        else:
            budget -= decodes
        if view.preempted:
            return Step(decodes, chunks)
        slots = limits.max_num_seqs - view.running
        if budget == 0 or slots <= 0:
            return Step(decodes, chunks, iterations=iterations, wake_on_arrival=False)
        if not view.waiting:
            return Step(decodes, chunks, iterations=iterations)
        admit: list[Admission] = []
        longest = limits.long_prefill_token_threshold or FOREVER
        caching = view.caching
        promised: dict[int, int] = {}
        found = idle = cached = 0
        taken = view.free_blocks - free  # least recently used blocks that running requests and admissions take
        if caching:
            for request, tokens in chunks:
                view.promise(request, request.computed + tokens, promised)
        for request in view.waiting:
            if caching:
                found, idle = view.lookup(request, promised, taken)
                cached = found * limits.block_size
            tokens = min(request.target - cached, longest)
            if tokens > budget:
                if not limits.enable_chunked_prefill:
                    break
                tokens = budget
            take, need = self.kv.admission(request, cached + tokens, view)
            if self.watermark and (decodes or chunks or admit):
                need += int(self.watermark * view.total_blocks)
            if need - found + idle > free:
                if idle and (cached + tokens < request.target or (found + 1) * limits.block_size >= request.target):
                    iterations = 1  # what it found may be evicted, and without it less memory may do
                break
            admit.append((request, tokens, take))
            free -= take - found + idle
            taken += take - found
            budget -= tokens
            slots -= 1
            if budget == 0 or slots == 0:
                break
            if caching:
                view.promise(request, cached + tokens, promised)
        if admit:
            return Step(decodes, chunks, admit)
        return Step(decodes, chunks, iterations=iterations, wake_on_arrival=not view.fifo)

    def _running(self, view: RankView) -> tuple[int, list[Part]]:
        """Decodes and chunks of the running list, cut where the budget ends."""
        limits = view.limits
        budget = limits.max_num_batched_tokens
        longest = limits.long_prefill_token_threshold or budget
        wanted = [(request, min(request.target - request.computed, longest)) for request in view.prefills]
        if view.decodes + sum(tokens for _, tokens in wanted) <= budget:
            return view.decodes, wanted
        # Without a threshold only the last on the list can be an incomplete prompt, so the decodes come first.
        if not limits.long_prefill_token_threshold:
            decodes = min(view.decodes, budget)
            budget -= decodes
            chunks = []
            for request, tokens in wanted:
                if budget:
                    chunks.append((request, min(tokens, budget)))
                    budget -= chunks[-1][1]
            return decodes, chunks
        decodes, chunks, want = 0, [], dict(wanted)
        for request in view.ordered():
            if budget == 0:
                break
            if request in want:
                tokens = min(want[request], budget)
                chunks.append((request, tokens))
                budget -= tokens
            elif decodes < view.decodes:
                decodes += 1
                budget -= 1
        return decodes, chunks
