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
    """vLLM v0's scheduler. Use `swap` as KV policy for its swapping mode.

    padded : prompts of a step count as long as the longest of them against `max_num_batched_tokens`, as in vLLM before
        0.3, which padded them.
    """

    kv: KVPolicy = field(default_factory=_kv)
    padded: bool = False

    def compose(self, view: RankView) -> Step:
        """A step of prompts if one can be admitted, else a step of decodes."""
        slots = view.limits.max_num_seqs - view.running
        if not view.swapped and not view.preempted and slots > 0:
            admit = admit_whole_prompts(self.kv, view, slots, view.free_blocks, self.padded)
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


def admit_whole_prompts(kv: KVPolicy, view: RankView, slots: int, free: int, padded: bool = False) -> list[Admission]:
    """Prompts from the head of the queue, uncut, while the token budget, `slots` and `free` blocks last."""
    budget = view.limits.max_num_batched_tokens
    admit: list[Admission] = []
    tokens = longest = 0
    for request in view.waiting:
        tokens, longest = tokens + request.target, max(longest, request.target)
        if len(admit) == slots or (longest * (len(admit) + 1) if padded else tokens) > budget:
            break
        take, need = kv.admission(request, request.target, view)
        if need > free:
            break
        admit.append((request, request.target, take))
        free -= take
    return admit
