"""Grouped products of a mixture of experts: out[r] = weight[r] * x[r // share] W[expert of row r]^T.

A row is a pair of a token and one of its experts; `grouping.group_rows` sorts rows by expert, so that each tile of rows
meets one expert's matrix. With share = top_k the rows of a token read the same input (up projection); with share = 1
each has its own (down projection).
Source: MegaBlocks (Gale et al., 2022); the fused MoE kernel of vLLM.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .grouping import Groups
from .tuning import configs, tuned


@tuned(
    configs(warps=(4,), stages=(4,), COLUMNS=(64, 128), DEPTH=(64,))
    + configs(warps=(8,), stages=(3,), COLUMNS=(128,), DEPTH=(64,)),
    key=["ROWS", "n", "k"],
)
@triton.jit
def _moe_gemm(
    x, weights, rows, tile_group, factors, out, n, k, share,
    SCALED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    expert = tl.load(tile_group + tl.program_id(1))
    if expert < 0:
        return
    row = tl.load(rows + tl.program_id(1) * ROWS + tl.arange(0, ROWS))
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    here, there = row >= 0, column < n
    source = x + tl.where(here, row // share, 0).to(tl.int64)[:, None] * k
    matrix = weights + expert.to(tl.int64) * n * k + column.to(tl.int64)[None, :] * k
    acc = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, k, DEPTH):
        i = start + tl.arange(0, DEPTH)
        a = tl.load(source + i[None, :], mask=here[:, None] & (i < k)[None, :], other=0.0)
        b = tl.load(matrix + i[:, None], mask=there[None, :] & (i < k)[:, None], other=0.0)
        acc = tl.dot(a, b, acc)
    if SCALED:
        acc *= tl.load(factors + row, mask=here, other=0.0).to(tl.float32)[:, None]
    place = out + tl.where(here, row, 0).to(tl.int64)[:, None] * n + column[None, :]
    tl.store(place, acc.to(out.dtype.element_ty), mask=here[:, None] & there[None, :])


def moe_gemm(
    x: torch.Tensor, weights: torch.Tensor, groups: Groups, out: torch.Tensor, share: int,
    factors: torch.Tensor | None = None,
) -> None:  # fmt: skip
    """The product of each row with its expert's matrix; rows of `out` that belong to no expert stay as they are.

    x : (rows / share, k). weights : (experts, n, k). out : (rows, n). All contiguous. factors : (rows,), or None for 1.
    groups : of the rows by expert, tiles of 16 to 128 rows.
    """
    n, k = out.shape[1], x.shape[1]
    _moe_gemm[lambda chosen: (triton.cdiv(n, chosen["COLUMNS"]), groups.tiles)](
        x, weights, groups.rows, groups.group, x if factors is None else factors, out, n, k, share,
        SCALED=factors is not None, ROWS=groups.tile,
    )  # fmt: skip
