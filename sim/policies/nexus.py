"""Batch policy: Nexus (2025): prompts and decodes in streams of their own on one GPU, its multiprocessors divided.

While the KV cache has room, prompts get as many multiprocessors as leave the decodes within `beta` of their best time;
beyond `kv_switch` decodes get as many as leave the prompts within `alpha` of theirs. The division changes only by
`delta` or more. Prompts go by remaining tokens less `gamma` for every second of age: the shortest first, with aging.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from ...configs.strict import check
from ..core import FOREVER, Admission, KVPolicy, Part, RankView, Request, Step
from .recompute import Recompute

PROMPTS, DECODES = 0, 1
_TICKS = 1 << 36  # of the clock, a second
_SHARES = tuple(n / 10 for n in range(1, 10))  # of the prompts

Times = Callable[[float], tuple[int, int]]


@dataclass
class Nexus:
    """shares : of prompts and decodes, instead of the controller's. order : "shortest" or, for ablations, "arrival"."""

    kv: KVPolicy = field(default_factory=Recompute)
    kv_switch: float = 0.7
    alpha: float = 1.5
    beta: float = 1.5
    delta: float = 0.1
    gamma: float = 15.0
    shares: tuple[float, ...] = ()
    order: Literal["shortest", "arrival"] = "shortest"

    streams = True

    def __post_init__(self) -> None:
        check(0 <= self.kv_switch <= 1, "kv_switch", self.kv_switch, "a share from 0 to 1")
        for key in ("alpha", "beta"):
            check(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        check(0 <= self.delta < 1, "delta", self.delta, "a share from 0 to below 1")
        check(self.gamma >= 0, "gamma", self.gamma, "0 or more tokens a second")
        if self.shares:
            pair = len(self.shares) == 2 and min(self.shares) > 0 and abs(sum(self.shares) - 1) < 1e-9
            check(pair, "shares", self.shares, "two shares above 0 that sum to 1")
        self._share = self.shares[0] if self.shares else 0.5
        self._stream: int | None = None

    def turn_to(self, stream: int) -> None:
        """The stream that the next step is for; before the first call, both in one batch."""
        self._stream = stream

    def compose(self, view: RankView) -> Step:
        """Prompts, decodes, or both."""
        decodes = view.decodes if self._stream != PROMPTS else 0
        if self._stream == DECODES:
            return Step(decodes)
        chunks, admit = self._prompts(view, decodes)
        idle = not (chunks or admit or view.waiting or view.preempted)
        return Step(decodes, chunks, admit, iterations=FOREVER if idle else 1)

    def _prompts(self, view: RankView, decodes: int) -> tuple[list[Part], list[Admission]]:
        limits, running = view.limits, set(view.prefills)
        budget = limits.max_num_batched_tokens - decodes
        free = view.free_blocks - view.decode_demand
        for request in running:  # whatever chunk each of them gets
            free -= max(0, limits.blocks(min(request.target, request.computed + max(budget, 0))) - request.blocks)
        slots = limits.max_num_seqs - view.running
        chunks: list[Part] = []
        admit: list[Admission] = []
        for request in self._ordered(view):
            tokens = min(request.target - request.computed, budget)
            if tokens <= 0:
                break
            if request in running:
                chunks.append((request, tokens))
            else:
                take, need = self.kv.admission(request, tokens, view)
                if need > free or slots <= 0 or view.preempted:
                    break
                admit.append((request, tokens, take))
                slots -= 1
                free -= take
            budget -= tokens
        return chunks, admit

    def _ordered(self, view: RankView) -> list[Request]:
        prompts = [*view.prefills, *view.waiting]
        if self.order == "arrival":
            return prompts

        def rank(request: Request) -> tuple[float, int]:
            age = (view.now - request.arrival) / _TICKS
            return request.target - request.computed - self.gamma * age, request.index

        return sorted(prompts, key=rank)

    def divide(self, view: RankView, times: Times) -> float:
        """The prompts' share of the multiprocessors. times : (ticks of the prompts, of the decodes) at a share."""
        if self.shares:
            return self._share
        found = [(share, *times(share)) for share in _SHARES]
        crowded = 1 - view.free_blocks / view.total_blocks > self.kv_switch
        if crowded:
            bound = self.alpha * min(prompts for _, prompts, _ in found)
            wanted = min(share for share, prompts, _ in found if prompts <= bound)
        else:
            bound = self.beta * min(decodes for *_, decodes in found)
            wanted = max(share for share, _, decodes in found if decodes <= bound)
        if abs(wanted - self._share) >= self.delta - 1e-9:
            self._share = wanted
        return self._share
