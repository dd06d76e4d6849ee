"""Batch policy: Splitwise's machine scheduler (ISCA'24): prompts first, decodes beside them while the budget lasts.

Source: `SplitwiseInstance` of Mutinifni/splitwise-sim, 8f99e7dc. A step takes whole prompts first come, first served
(the first one whatever its length), then decodes, up to `max_num_batched_tokens` (2,048 there) and `max_num_seqs`
(512). Decodes that find no room pause. The original counts pauses a request and puts those with too many first; here
the decodes of a machine count together, and after so many pauses in a row the next step is theirs before any prompt's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ...configs.strict import check
from ..core import FOREVER, Admission, KVPolicy, RankView, Step
from .recompute import Recompute


@dataclass
class SplitwiseBatch:
    """max_pauses : steps in a row that decodes may be kept waiting (4)."""

    kv: KVPolicy = field(default_factory=lambda: Recompute(reserve="prompt"))
    max_pauses: int = 4

    def __post_init__(self) -> None:
        check(self.max_pauses >= 0, "max_pauses", self.max_pauses, "0 or more")
        self._pauses = 0

    def observe(self, step: Step) -> None:
        """Count the steps without decodes."""
        self._pauses = 0 if step.decodes else self._pauses + 1

    def compose(self, view: RankView) -> Step:
        """Prompts and then decodes, or the other way round when those have waited long enough."""
        budget, slots = view.limits.max_num_batched_tokens, view.limits.max_num_seqs
        if view.preempted:
            return Step(min(view.decodes, budget))
        first = min(view.decodes, budget) if self._pauses >= self.max_pauses else 0
        admit = self._prompts(view, budget - first, bool(first), slots - view.running)
        left = budget - sum(tokens for _, tokens, _ in admit)
        decodes = min(view.decodes, max(0, left))
        if admit:
            return Step(decodes, admit=admit)
        blocked = bool(view.waiting) and view.fifo
        iterations = 1 if first and blocked else FOREVER  # the prompts' turn comes again
        return Step(decodes, iterations=iterations, wake_on_arrival=not blocked)

    def _prompts(self, view: RankView, budget: int, beside: bool, slots: int) -> list[Admission]:
        admit: list[Admission] = []
        free = view.free_blocks - view.decode_demand
        for request in view.waiting:
            if len(admit) >= slots or ((beside or admit) and request.target > budget):
                break
            take, need = self.kv.admission(request, request.target, view)
            if need > free:
                break
            admit.append((request, request.target, take))
            budget -= request.target
            free -= take
        return admit
