"""Batch policy: TensorRT-LLM's in-flight batching: all decodes, and whole prompts while the token budget lasts.

Source: TensorRT-LLM's documentation, "Paged Attention, IFB, and Request Scheduling", and `SimpleScheduler` of its
PyTorch backend (`_torch/pyexecutor/scheduler.py`): the capacity scheduler decides who has memory; the micro-batch
scheduler takes generation requests and then prompts in order of arrival, up to `max_batch_size` and `max_num_tokens`.
The first prompt that does not fit ends the batch, or is cut where chunked context is enabled.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..core import FOREVER, Admission, KVPolicy, Part, RankView, Step
from .no_evict import NoEvict


@dataclass
class Trtllm:
    """TensorRT-LLM's scheduler; `max_num_seqs` is `max_batch_size`, `max_num_batched_tokens` is `max_num_tokens`."""

    kv: KVPolicy = field(default_factory=NoEvict)

    def compose(self, view: RankView) -> Step:
        """Decodes, prompts under way, new prompts."""
        limits = view.limits
        decodes = min(view.decodes, limits.max_num_batched_tokens)
        budget = limits.max_num_batched_tokens - decodes
        iterations = FOREVER
        chunks: list[Part] = []
        for request in view.prefills:
            tokens = self._chunk(request.target - request.computed, budget, limits.block_size)
            if tokens:
                chunks.append((request, tokens))
                budget -= tokens
                iterations = min(iterations, (request.target - request.computed) // tokens)
        slots = limits.max_num_seqs - view.running
        free = view.free_blocks - view.decode_demand
        admit: list[Admission] = []
        for request in view.waiting:
            if len(admit) >= slots or view.preempted:
                break
            tokens = request.target
            if tokens > budget and limits.enable_chunked_prefill:
                tokens = self._chunk(tokens, budget, limits.block_size)
            if not 0 < tokens <= budget:
                break
            take, need = self.kv.admission(request, tokens, view)
            if need > free:
                break
            admit.append((request, tokens, take))
            free -= take
            budget -= tokens
        if admit:
            return Step(decodes, chunks, admit)
        blocked = slots <= 0 or (bool(view.waiting) and view.fifo)
        return Step(decodes, chunks, iterations=iterations, wake_on_arrival=not blocked)

    def _chunk(self, left: int, budget: int, block: int) -> int:
        """Tokens of a prompt's next chunk: all that are left, or whole blocks of them."""
        return left if left <= budget else budget // block * block
