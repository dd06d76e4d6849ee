"""KV policy: SGLang's admission by expected length, and retraction of the youngest when memory runs out.

Source: sgl-project/sglang `managers/schedule_policy.py` (`PrefillAdder.add_one_req`: a request needs its prompt and
what it may generate, and every running one keeps a share of what it may still generate) and
`managers/schedule_batch.py` (`retract_decode`: who has generated least goes first, the longest prompt among equals).
SGLang lets the share decay over 600 decode steps from 0.7 to 0.098 and raises it after a retraction; here it stays at
its end, and a running request keeps it of the whole of what it may generate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...configs.strict import check
from ..core import RankView, Request

_CLIP = 4096  # SGLang expects no more tokens than that of any request


@dataclass
class SglangRetract:
    """Preemption by recomputation.

    max_new_tokens : that clients ask for; None: up to `max_model_len`.
    new_token_ratio : share of them that a running request keeps.
    """

    max_new_tokens: int | None = None
    new_token_ratio: float = 0.098

    grows = True
    spare = 0
    swaps = False
    arrival_order = False

    def __post_init__(self) -> None:
        most = self.max_new_tokens
        check(most is None or most >= 1, "max_new_tokens", most, "at least 1")
        check(0 <= self.new_token_ratio <= 1, "new_token_ratio", self.new_token_ratio, "a share from 0 to 1")

    def admission(self, request: Request, tokens: int, view: RankView) -> tuple[int, int]:
        """(blocks to hold, blocks that must be free)."""
        limits = view.limits
        longest = limits.max_model_len - request.target
        new = max(1, min(longest, _CLIP, self.max_new_tokens or longest))
        kept = view.running * limits.blocks(int(self.new_token_ratio * new))
        return limits.blocks(tokens), limits.blocks(request.target + new) + kept

    def resumption(self, request: Request, view: RankView) -> tuple[int, int]:
        """Nothing is ever swapped out."""
        return request.blocks, request.blocks

    def victim(self, running: Sequence[Request]) -> Request:
        """Who has generated least, the longest prompt among equals."""
        return min(running, key=lambda r: (r.tokens(), -r.prompt_tokens))
