"""Decode attention over a paged cache: out[r, h] = softmax(scale q[r, h] . K_r[h // group]) V_r[h // group].

One query a row, grouped-query heads, contexts of any lengths. Every piece of a context (`pieces.cut`) and KV head is a
program: it reads each key and value once for all heads of the group, packed into the rows of a tensor-core tile, and
leaves a partial result that `merge` joins (split KV).
Source: FlashAttention-2 (Dao, 2023), FlashDecoding (2023), PagedAttention (Kwon et al., 2023).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .merge import merge
from .pieces import Pieces
from .softmax import absorb, slots
from .tuning import check_shape, configs, tile_rows, tuned

_LOG2E = 1.4426950408889634


# The block ids are loads that loads depend on: 3 stages keep one tile of keys and values on its way, 5 keep two.
@tuned(
    configs(warps=(4,), stages=(3, 5), TILE=(64,)) + configs(warps=(8,), stages=(3, 5), TILE=(128,)),
    key=["bucket", "KV_HEADS", "GROUP", "HEAD_DIM"],
)
@triton.jit(do_not_specialize=["table_stride", "bucket"], do_not_specialize_on_alignment=["tables"])
def _paged_decode(
    q, q_stride, keys, values, tables, table_stride, piece_row, piece_start, piece_stop, partial, lse, scale, bucket,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    piece, kv_head = tl.program_id(0), tl.program_id(1)
    row = tl.load(piece_row + piece)
    if row < 0:
        return
    start, stop = tl.load(piece_start + piece), tl.load(piece_stop + piece)
    heads: tl.constexpr = KV_HEADS * GROUP
    g, d = tl.arange(0, ROWS), tl.arange(0, HEAD_DIM)
    head = kv_head * GROUP + g
    queries = tl.load(q + row * q_stride + head[:, None] * HEAD_DIM + d[None, :], mask=(g < GROUP)[:, None], other=0.0)
    table = tables + row * table_stride
    top = tl.full([ROWS], float("-inf"), tl.float32)
    mass = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, HEAD_DIM], tl.float32)
    for begin in range(start // BLOCK_SIZE * BLOCK_SIZE, stop, TILE):
        n = begin + tl.arange(0, TILE)
        inside = (n >= start) & (n < stop)
        slot = slots(table, begin, stop, kv_head, KV_HEADS, BLOCK_SIZE, TILE)
        k = tl.load(keys + slot[None, :] * HEAD_DIM + d[:, None], mask=inside[None, :], other=0.0)
        products = tl.where(inside[None, :], tl.dot(queries, k.to(queries.dtype)), float("-inf"))
        v = tl.load(values + slot[:, None] * HEAD_DIM + d[None, :], mask=inside[:, None], other=0.0)
        top, mass, acc = absorb(products, scale, v.to(queries.dtype), top, mass, acc)
    place = piece.to(tl.int64) * heads + head
    tl.store(lse + place, top + tl.log2(mass), mask=g < GROUP)
    tl.store(partial + place[:, None] * HEAD_DIM + d[None, :], acc / mass[:, None], mask=(g < GROUP)[:, None])


def paged_decode(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    tables: torch.Tensor,
    pieces: Pieces,
    out: torch.Tensor,
    workspace: tuple[torch.Tensor, torch.Tensor],
    *,
    scale: float,
    value_scale: float = 1.0,
) -> None:
    """Attention of one token a row; its own key and value are in the cache already.

    q, out : (rows, heads, head_dim); rows of q may lie apart, out is contiguous. keys, values : (blocks, kv_heads,
    block_size, head_dim), contiguous, of the dtype of q or float8_e4m3fn. tables : (rows, blocks a row) int32.
    workspace : of `decode_workspace`.
    scale : of the scores, above 0; with an 8-bit cache times the scale of its keys. value_scale : of its values.
    """
    partial, lse = workspace
    decode_pieces(q, keys, values, tables, pieces, partial, lse, scale=scale)
    merge(partial, lse, pieces, out)
    if value_scale != 1.0:
        out.mul_(value_scale)


def decode_pieces(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, tables: torch.Tensor, pieces: Pieces,
    partial: torch.Tensor, lse: torch.Tensor, *, scale: float,
) -> None:  # fmt: skip
    """The partial results alone, one slot a piece."""
    _, heads, head_dim = q.shape
    _, kv_heads, block_size, _ = keys.shape
    check_shape(head_dim, block_size)
    _paged_decode[(pieces.capacity, kv_heads)](
        q, q.stride(0), keys, values, tables, tables.stride(0), pieces.row, pieces.start, pieces.stop, partial, lse,
        scale * _LOG2E, triton.next_power_of_2(pieces.capacity),
        KV_HEADS=kv_heads, GROUP=heads // kv_heads, ROWS=tile_rows(heads // kv_heads), HEAD_DIM=head_dim,
        BLOCK_SIZE=block_size,
    )  # fmt: skip


def decode_workspace(slots_: int, heads: int, head_dim: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Partial results and their logarithms for so many pieces."""
    return (
        torch.empty(slots_, heads, head_dim, dtype=torch.float32, device=device),
        torch.empty(slots_, heads, dtype=torch.float32, device=device),
    )
