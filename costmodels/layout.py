"""What layouts cost beside the operators: prompts padded to the longest of a batch, tables of KV blocks."""

from __future__ import annotations

from collections.abc import Sequence

from ..configs.techniques import Techniques
from .base import Chunk, Piece, StageCost, ticks


class Padded:
    """A stage in whose batches every prompt part is as long as the longest one, and as far into its prompt.

    Source of the comparison: Prepacking (Zhao et al., 2024).
    """

    def __init__(self, stage: StageCost) -> None:
        self._stage = stage

    def piece(
        self, chunks: Sequence[Chunk], decodes: int, context_sum: int, context_min: int, context_max: int
    ) -> Piece:
        """See `StageCost.piece`."""
        if len(chunks) < 2:
            return self._stage.piece(chunks, decodes, context_sum, context_min, context_max)
        tokens, context = max(tokens for tokens, _ in chunks), max(context for _, context in chunks)
        padded = [(tokens, context)] * len(chunks)
        base, slope, valid, outside = self._stage.piece(padded, decodes, context_sum, context_min, context_max)
        alike = all(chunk[0] == tokens for chunk in chunks)  # else another one may become the farthest
        return base, slope, valid if alike else 1, outside


class Tabled:
    """A stage whose host writes a table entry for every KV block of the decodes in every iteration.

    seconds : a token of their contexts, a block's entry spread over its tokens.
    """

    def __init__(self, stage: StageCost, seconds: float) -> None:
        self._stage, self._rate = stage, ticks(seconds)

    def piece(
        self, chunks: Sequence[Chunk], decodes: int, context_sum: int, context_min: int, context_max: int
    ) -> Piece:
        """See `StageCost.piece`."""
        base, slope, valid, outside = self._stage.piece(chunks, decodes, context_sum, context_min, context_max)
        return base + self._rate * context_sum, slope + self._rate * decodes, valid, outside


def laid_out(stage: StageCost, techniques: Techniques) -> StageCost:
    """The accelerator's part of a stage with what its layout costs."""
    return Padded(stage) if techniques.padded_prefill else stage


def tabled(stage: StageCost, techniques: Techniques) -> StageCost:
    """The first stage of a replica, with the host's part of its layout."""
    paging = techniques.paging
    if paging is None or not paging.host_seconds_per_block:
        return stage
    return Tabled(stage, paging.host_seconds_per_block / paging.block_size)
