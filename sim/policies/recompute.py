"""KV policy: blocks by need, a victim's blocks are freed and its tokens computed again.

Source: vllm-project/vllm `v1/core/kv_cache_manager.py` (003df296) with `reserve="chunk"`; the block managers of
vLLM v0 and microsoft/sarathi-serve (`osdi-sarathi-serve`, ceaa0660) with `reserve="prompt"`; Orca (OSDI'22) as
rebuilt there with `reserve="max_model_len"`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ...configs.strict import check
from ..core import RankView, Request


@dataclass
class Recompute:
    """Preemption by recomputation.

    reserve : what an admitted request holds at once: the blocks of its first chunk, of its whole prompt, or of
        `max_model_len` tokens (it then never grows).
    watermark : share of all blocks that an admission must leave free; growth may use them.
    full_sequence_must_fit : with `reserve="chunk"`, admit only when the whole prompt would fit now.
    victim_rule : the last on the running list, or the lowest priority (greatest value, then latest arrival).
    every_decode_needs_a_free_block : vLLM v0's check, which asks for a free block even where none is taken.
    arrival_order : the running list is in order of arrival (v0, Sarathi) instead of admission (v1).
    """

    reserve: Literal["chunk", "prompt", "max_model_len"] = "chunk"
    watermark: float = 0.0
    full_sequence_must_fit: bool = False
    victim_rule: Literal["last", "lowest_priority"] = "last"
    every_decode_needs_a_free_block: bool = False
    arrival_order: bool = False

    swaps = False

    def __post_init__(self) -> None:
        check(0 <= self.watermark < 1, "watermark", self.watermark, "a share of at least 0 and below 1")
        self.grows = self.reserve != "max_model_len"
        self.spare = int(self.every_decode_needs_a_free_block)

    def admission(self, request: Request, tokens: int, view: RankView) -> tuple[int, int]:
        """(blocks to hold, blocks that must be free)."""
        blocks = view.limits.blocks
        if self.reserve == "chunk":
            take = need = blocks(tokens)
            if self.full_sequence_must_fit:
                need = blocks(request.target)
        elif self.reserve == "prompt":
            take = need = blocks(request.target)
        else:
            take = need = blocks(view.limits.max_model_len)
        return take, need + self._watermark_blocks(view)

    def resumption(self, request: Request, view: RankView) -> tuple[int, int]:
        """(blocks to hold, blocks that must be free): vLLM asks for one more block than it may need."""
        take = request.blocks + 1
        return take, take + self._watermark_blocks(view)

    def _watermark_blocks(self, view: RankView) -> int:
        return int(self.watermark * view.total_blocks) if self.watermark else 0

    def victim(self, running: Sequence[Request]) -> Request:
        """Who loses its blocks."""
        if self.victim_rule == "last":
            return running[-1]
        return max(running, key=lambda r: (r.priority, r.arrival, r.index))
