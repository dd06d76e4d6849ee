"""Cuts the contexts of a decode batch into pieces of like size, so that attention over them fills the device.

Few long contexts and many short ones then load the processors alike. The cut is made on the host with the other inputs
of an iteration, and once for all layers; its tensors have a fixed size for a batch size, as CUDA graphs need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

_TILE = 128  # tokens: pieces are whole tiles of any decode kernel
_LEAST = 256  # tokens: below that starting a program costs more than it saves
_WAVES = 8  # programs a processor: they end at different times, and the next ones fill the gaps


@dataclass(frozen=True)
class Pieces:
    """Pieces of contexts, all int32 on the device.

    row, start, stop : of each piece, the row of the batch (-1: no piece) and the tokens of its context.
    first : of each row, its first piece; one more entry at the end.
    """

    row: torch.Tensor
    start: torch.Tensor
    stop: torch.Tensor
    first: torch.Tensor

    @property
    def capacity(self) -> int:
        return len(self.row)

    def copy_(self, other: Pieces) -> None:
        """Take over another cut, made for the same batch size, in place."""
        for name in ("row", "start", "stop", "first"):
            getattr(self, name).copy_(getattr(other, name), non_blocking=True)


def most_pieces(rows: int, kv_heads: int, processors: int) -> int:
    """How many pieces a cut of `rows` contexts can have."""
    return rows + max(1, _WAVES * processors // kv_heads)


def cut(
    contexts: Sequence[int], kv_heads: int, processors: int, device: torch.device, *, window: int | None = None
) -> Pieces:
    """The pieces of a batch.

    contexts : tokens that each row attends to, its own included; 0 for a row that pads the batch.
    window : only the last `window` tokens of each count.
    """
    stop = np.asarray(contexts, np.int64)
    begin = np.maximum(stop - window, 0) if window else np.zeros_like(stop)
    length = stop - begin
    share = max(1, _WAVES * processors // kv_heads)
    size = max(_LEAST, -(-int(length.sum()) // share))
    count = -(-length // size)
    each = -(-length // np.maximum(count, 1))
    each = -(-each // _TILE) * _TILE
    count = -(-length // np.maximum(each, 1))
    first = np.concatenate([[0], np.cumsum(count)])
    row = np.repeat(np.arange(len(stop)), count)
    start = begin[row] + (np.arange(len(row)) - first[row]) * each[row]
    capacity = most_pieces(len(stop), kv_heads, processors)
    table = np.full((3, capacity), -1, np.int32)
    table[:, : len(row)] = row, start, np.minimum(start + each[row], stop[row])
    rows, starts, stops = torch.from_numpy(table).to(device, non_blocking=True)
    return Pieces(rows, starts, stops, torch.from_numpy(first.astype(np.int32)).to(device, non_blocking=True))
