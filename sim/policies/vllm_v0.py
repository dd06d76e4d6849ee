"""Batch policy: the prefill-first scheduler of vLLM v0, which never mixes prompts and decodes.

Source: `vllm/core/scheduler.py` as in AlibabaPAI/llumnix (`osdi24ae`, 92f6f9d5) and in microsoft/sarathi-serve's
`vllm_scheduler`. While nobody is swapped out, whole prompts are admitted first come, first served, and run alone:
all decodes stall. Else all decodes run; where blocks are short the newest loses its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..core import FOREVER, Admission, KVPolicy, RankView, Step
from .recompute import Recompute


def _kv() -> KVPolicy:
    return Recompute(reserve="prompt", watermark=0.01, every_decode_needs_a_free_block=True, arrival_order=True)


@dataclass
class VllmV0:
    """vLLM v0's scheduler. Use `swap` as KV policy for its swapping mode."""

    kv: KVPolicy = field(default_factory=_kv)

    def compose(self, view: RankView) -> Step:
        """A step of prompts if one can be admitted, else a step of decodes."""
        slots = view.limits.max_num_seqs - view.running
        if not view.swapped and not view.preempted and slots > 0:
            admit = admit_whole_prompts(self.kv, view, slots, view.free_blocks)
            if admit:
                return Step(admit=admit)
        resume = []
        if view.swapped and not view.preempted:
            free = view.free_blocks - view.decode_demand
            for request in view.swapped[: max(0, slots)]:
                take, need = self.kv.resumption(request, view)
                if need > free:
                    break
                resume.append(request)
                free -= take
        decodes = view.decodes + len(resume)
        if resume or view.preempted:
            return Step(decodes, resume=resume)
        blocked = bool(view.swapped) or slots <= 0 or (bool(view.waiting) and view.fifo)
        return Step(decodes, iterations=FOREVER, wake_on_arrival=not blocked)


def admit_whole_prompts(kv: KVPolicy, view: RankView, slots: int, free: int) -> list[Admission]:
    """Prompts from the head of the queue, uncut, while the token budget, `slots` and `free` blocks last."""
    budget = view.limits.max_num_batched_tokens
    admit: list[Admission] = []
    for request in view.waiting:
        if len(admit) == slots or request.target > budget:
            break
        take, need = kv.admission(request, request.target, view)
        if need > free:
            break
        admit.append((request, request.target, take))
        budget -= request.target
        free -= take
    return admit
