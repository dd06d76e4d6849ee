"""Batch policy: the queue policy's order decides who runs, at every iteration; others give way if they have to.

Source: the scheduler of LTR, hao-ai-lab/vllm-ltr (13bbf6ff), which ranks waiting, running and swapped requests together
and runs the first that fit; its guard lets a request that was left out for `patience` steps run before all others, for
`boost` steps. Tokens are spent as in vLLM v1: decodes, prompts under way, new ones. A running request gives way only
where that lets one in that ranks before it. With `sjf` and a predictor this is LTR, with `drawn_priority` FastSwitch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ...configs.strict import check
from ..core import FOREVER, Admission, KVPolicy, RankView, Request, Step
from .prompt_parts import prompt_parts
from .recompute import Recompute


@dataclass
class Preemptive:
    """patience, boost : of the starvation guard, in iterations (LTR: 200 and 10); patience 0 = no guard."""

    kv: KVPolicy = field(default_factory=Recompute)
    patience: int = 0
    boost: int = 10

    def __post_init__(self) -> None:
        check(self.patience >= 0, "patience", self.patience, "0 or more iterations")
        check(self.boost >= 1, "boost", self.boost, "at least 1 iteration")
        self._left_out: dict[Request, int] = {}  # since which iteration
        self._boosted: dict[Request, int] = {}  # until which iteration; FOREVER while it waits

    def compose(self, view: RankView) -> Step:
        """Who has to go, or what runs."""
        outside = [*view.waiting, *view.swapped]
        guarded = self._guard(view, outside) if self.patience else FOREVER
        chunks, budget, iterations = prompt_parts(view, view.limits.max_num_batched_tokens - view.decodes)
        free = view.free_blocks - view.decode_demand
        free -= sum(self._held(view, r, n) - r.blocks for r, n in chunks)
        running = view.running
        if free < 0 and running > 1:
            return Step(preempt=self._ranked(view, view.ordered())[-1:])
        admit: list[Admission] = []
        resume: list[Request] = []
        for request in self._ranked(view, outside) if outside else ():
            if budget <= 0:
                break
            swapped = request in view.swapped
            tokens = 1 if swapped else min(request.target, budget)
            take, need = self.kv.resumption(request, view) if swapped else self.kv.admission(request, tokens, view)
            slots = view.limits.max_num_seqs - running
            if need > free or slots < 1:
                victims = self._victims(view, request, dict(chunks), need - free, 1 - slots)
                if victims and not (admit or resume):
                    return Step(preempt=victims)
                break
            if swapped:
                resume.append(request)
            else:
                admit.append((request, tokens, take))
            free -= take
            budget -= tokens
            running += 1
        if admit or resume:
            return Step(view.decodes + len(resume), chunks, admit, resume)
        return Step(view.decodes, chunks, iterations=min(iterations, guarded))

    def _victims(
        self, view: RankView, request: Request, chunks: dict[Request, int], blocks: int, slots: int
    ) -> list[Request]:
        """The last of those that rank after `request`, as many as free so much; nobody if all of them do not."""
        order = self._ranked(view, [*view.ordered(), request])
        victims: list[Request] = []
        for other in reversed(order[order.index(request) + 1 :]):
            if blocks <= 0 and slots <= 0:
                break
            victims.append(other)
            blocks -= self._held(view, other, chunks.get(other, 0))
            slots -= 1
        return victims if blocks <= 0 and slots <= 0 else []

    def _held(self, view: RankView, request: Request, tokens: int) -> int:
        """Blocks that a running request holds with the coming iteration: after its token, or its chunk of `tokens`."""
        if self.kv.grows and request.computed >= request.target:
            return view.limits.blocks(request.context() + 1)
        return max(request.blocks, view.limits.blocks(request.computed + tokens))

    def _ranked(self, view: RankView, requests: Sequence[Request]) -> list[Request]:
        """In the queue policy's order, boosted ones first."""
        return sorted(view.ranked(requests), key=lambda r: r not in self._boosted)

    def _guard(self, view: RankView, outside: Sequence[Request]) -> int:
        """Note who is left out since when, and boost whose patience is at its end. Returns until the next one's is.

        What is noted depends on who waits at which iteration, not on how often anybody asks.
        """
        steps = view.steps
        self._left_out = {r: self._left_out.get(r, steps) for r in outside}
        for request, until in list(self._boosted.items()):
            if until == FOREVER and request not in self._left_out:
                self._boosted[request] = steps + self.boost
            elif until <= steps:
                del self._boosted[request]
        for request, since in self._left_out.items():
            if steps - since >= self.patience:
                self._boosted[request] = FOREVER
        due = [since + self.patience for r, since in self._left_out.items() if r not in self._boosted]
        due += [until for until in self._boosted.values() if until < FOREVER]
        return min(due, default=FOREVER) - steps
