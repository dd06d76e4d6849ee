"""Merges attention over pieces of a context: out = sum_i 2**(lse_i - lse) out_i, lse = log2 sum_i 2**lse_i.

Each piece i brings its own softmax-weighted mean out_i and the base-2 logarithm lse_i of its softmax mass.
Source: FlashDecoding (Dao et al., 2023); the state merge of FlashInfer (Ye et al., 2025).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .pieces import Pieces


@triton.jit(do_not_specialize=["common", "common_pieces"])
def _merge(
    partial, lse, first, out, common, common_pieces, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0), tl.program_id(1)
    rows = tl.num_programs(0)
    d = tl.arange(0, HEAD_DIM)
    top = float("-inf")
    mass = 0.0
    acc = tl.zeros([HEAD_DIM], tl.float32)
    begin, end = tl.load(first + row), tl.load(first + row + 1)
    for i in range(begin, end + common_pieces):
        slot = tl.where(i < end, i, common + (i - end) * rows + row)
        place = slot.to(tl.int64) * HEADS + head
        level = tl.load(lse + place)
        higher = tl.maximum(top, level)
        keep, take = tl.exp2(top - higher), tl.exp2(level - higher)
        mass = mass * keep + take
        acc = acc * keep + take * tl.load(partial + place * HEAD_DIM + d)
        top = higher
    total = acc / tl.where(mass == 0, 1.0, mass)
    tl.store(out + (row * HEADS + head) * HEAD_DIM + d, total.to(out.dtype.element_ty))


def merge(partial: torch.Tensor, lse: torch.Tensor, pieces: Pieces, out: torch.Tensor, common_pieces: int = 0) -> None:
    """Write the attention of each row into `out`; a row without pieces gets zeros.

    partial : (slots, heads, head_dim) float32. lse : (slots, heads) float32. out : (rows, heads, head_dim).
    The slots are those of the pieces and then, `common_pieces` times, one slot for every row.
    """
    rows, heads, head_dim = out.shape
    _merge[(rows, heads)](
        partial, lse, pieces.first, out, pieces.capacity, common_pieces, HEADS=heads, HEAD_DIM=head_dim, num_warps=1
    )
