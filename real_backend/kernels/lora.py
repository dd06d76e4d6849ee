"""Batched low-rank adapters of mixed ranks: y[t] += scale_a (x[t] A_a^T) B_a, a the adapter of token t.

The matrices of all adapters lie in one pool, an adapter with rank r as r consecutive rows of it, so adapters of any
rank share memory without padding. Tokens are sorted by adapter (`grouping`), and a tile of tokens meets one adapter:
first down to its rank, then up.
Source: Punica's SGMV (Chen et al., 2023); the unified pool of S-LoRA (Sheng et al., 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from .grouping import Groups
from .tuning import configs, tuned

_RANKS = 16  # a tile of ranks, the least that a tensor core takes


@dataclass(frozen=True)
class Adapters:
    """Adapters of one matrix.

    down : (sum of ranks, inputs). up : (sum of ranks, outputs). first, rank : (adapters,) int32, rows of the pool.
    scale : (adapters,) float32.
    """

    down: torch.Tensor
    up: torch.Tensor
    first: torch.Tensor
    rank: torch.Tensor
    scale: torch.Tensor


@tuned(configs(warps=(4,), stages=(3, 4), DEPTH=(64, 128)), key=["inputs", "TOKENS"])
@triton.jit
def _down(
    x, pool, firsts, ranks, rows, tile_group, middle, inputs, width,
    TOKENS: tl.constexpr, RANKS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    adapter = tl.load(tile_group + tl.program_id(0))
    if adapter < 0:
        return
    rank = tl.load(ranks + adapter)
    r = tl.program_id(1) * RANKS + tl.arange(0, RANKS)
    if tl.program_id(1) * RANKS >= rank:
        return
    token = tl.load(rows + tl.program_id(0) * TOKENS + tl.arange(0, TOKENS))
    here, real = token >= 0, r < rank
    source = x + tl.where(here, token, 0).to(tl.int64)[:, None] * inputs
    matrix = pool + (tl.load(firsts + adapter) + r).to(tl.int64)[None, :] * inputs
    acc = tl.zeros([TOKENS, RANKS], tl.float32)
    for start in range(0, inputs, DEPTH):
        i = start + tl.arange(0, DEPTH)
        a = tl.load(source + i[None, :], mask=here[:, None] & (i < inputs)[None, :], other=0.0)
        b = tl.load(matrix + i[:, None], mask=real[None, :] & (i < inputs)[:, None], other=0.0)
        acc = tl.dot(a, b, acc)
    place = middle + tl.where(here, token, 0)[:, None] * width + r[None, :]
    tl.store(place, acc.to(middle.dtype.element_ty), mask=here[:, None] & real[None, :])


@tuned(configs(warps=(4,), stages=(3,), COLUMNS=(64, 128, 256)), key=["outputs", "TOKENS"])
@triton.jit
def _up(
    middle, pool, firsts, ranks, scales, rows, tile_group, y, outputs, width,
    TOKENS: tl.constexpr, RANKS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    adapter = tl.load(tile_group + tl.program_id(0))
    if adapter < 0:
        return
    rank, first = tl.load(ranks + adapter), tl.load(firsts + adapter)
    token = tl.load(rows + tl.program_id(0) * TOKENS + tl.arange(0, TOKENS))
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    here, there = token >= 0, column < outputs
    acc = tl.zeros([TOKENS, COLUMNS], tl.float32)
    for start in range(0, rank, RANKS):
        r = start + tl.arange(0, RANKS)
        source = middle + tl.where(here, token, 0)[:, None] * width + r[None, :]
        a = tl.load(source, mask=here[:, None] & (r < rank)[None, :], other=0.0)
        matrix = pool + (first + r).to(tl.int64)[:, None] * outputs + column[None, :]
        b = tl.load(matrix, mask=(r < rank)[:, None] & there[None, :], other=0.0)
        acc = tl.dot(a, b, acc)
    place = y + tl.where(here, token, 0).to(tl.int64)[:, None] * outputs + column[None, :]
    mask = here[:, None] & there[None, :]
    total = tl.load(place, mask=mask, other=0.0).to(tl.float32) + acc * tl.load(scales + adapter)
    tl.store(place, total.to(y.dtype.element_ty), mask=mask)


def add_adapters(x: torch.Tensor, adapters: Adapters, groups: Groups, y: torch.Tensor, middle: torch.Tensor) -> None:
    """Add to each row of y (tokens, outputs) what its adapter makes of x (tokens, inputs); both contiguous.

    groups : of the tokens by adapter; those that have none are left out. middle : (tokens, greatest rank) of x's dtype,
    scratch.
    """
    width = middle.shape[1]
    sizes = {"TOKENS": groups.tile, "RANKS": _RANKS}
    _down[(groups.tiles, triton.cdiv(width, _RANKS))](
        x, adapters.down, adapters.first, adapters.rank, groups.rows, groups.group, middle, x.shape[1], width, **sizes
    )
    _up[lambda chosen: (groups.tiles, triton.cdiv(y.shape[1], chosen["COLUMNS"]))](
        middle, adapters.up, adapters.first, adapters.rank, adapters.scale, groups.rows, groups.group, y, y.shape[1],
        width, **sizes,
    )  # fmt: skip
