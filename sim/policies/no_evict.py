"""KV policy: a request is admitted only when it can run to its end, so nobody is ever evicted.

Source: TensorRT-LLM's capacity scheduler `GUARANTEED_NO_EVICT`, its default ("Useful Runtime Options").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...configs.strict import check
from ..core import RankView, Request


@dataclass
class NoEvict:
    """Blocks for prompt and answer from the start.

    max_new_tokens : that clients ask for; None: up to `max_model_len`.
    """

    max_new_tokens: int | None = None

    grows = False
    spare = 0
    swaps = False
    arrival_order = False

    def __post_init__(self) -> None:
        most = self.max_new_tokens
        check(most is None or most >= 1, "max_new_tokens", most, "at least 1")

    def admission(self, request: Request, tokens: int, view: RankView) -> tuple[int, int]:
        """(blocks to hold, blocks that must be free)."""
        longest = view.limits.max_model_len
        most = longest if self.max_new_tokens is None else min(longest, request.prompt_tokens + self.max_new_tokens)
        take = view.limits.blocks(max(most, request.target))
        return take, take

    def resumption(self, request: Request, view: RankView) -> tuple[int, int]:
        """Nothing is ever swapped out."""
        return request.blocks, request.blocks

    def victim(self, running: Sequence[Request]) -> Request:
        """Whoever came last, should clients ask for more than was promised."""
        return running[-1]
