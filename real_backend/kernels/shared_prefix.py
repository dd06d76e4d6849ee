"""Decode attention of a batch that shares a prefix: the prefix is read once for all, not once a request.

softmax over prefix and own context = merge of the two (`merge`). For the prefix, the queries of all requests and of all
heads of a group are the rows of one product with the keys, as in a prompt; each request's own context is an ordinary
decode.
Source: Hydragen (Juravsky et al., 2024); cascade attention of FlashInfer (Ye et al., 2025).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .merge import merge
from .paged_decode import decode_pieces
from .pieces import Pieces
from .softmax import absorb, slots
from .tuning import check_shape, configs, processors, tuned

_LOG2E = 1.4426950408889634
_ROWS = 64  # of a tile, when the prefix is cut
_LEAST = 256  # tokens of a piece


@tuned(
    configs(warps=(4,), stages=(3, 5), ROWS=(16, 64), TILE=(64,))
    + configs(warps=(8,), stages=(3, 5), ROWS=(128,), TILE=(64,))
    + configs(warps=(8,), stages=(3,), ROWS=(128,), TILE=(128,)),
    key=["bucket", "KV_HEADS", "GROUP", "HEAD_DIM"],
)
@triton.jit(do_not_specialize=["length", "piece_length", "slot_base", "rows", "bucket"])
def _prefix(
    q, q_stride, keys, values, table, length, piece_length, partial, lse, slot_base, rows, scale, bucket,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    ROWS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    piece, kv_head = tl.program_id(1), tl.program_id(2)
    heads: tl.constexpr = KV_HEADS * GROUP
    m, d = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, HEAD_DIM)
    row, head = m // GROUP, kv_head * GROUP + m % GROUP
    real = row < rows
    queries = tl.load(q + (row * q_stride + head * HEAD_DIM)[:, None] + d[None, :], mask=real[:, None], other=0.0)
    start = piece * piece_length
    stop = tl.minimum(start + piece_length, length)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    mass = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, HEAD_DIM], tl.float32)
    for begin in range(start, stop, TILE):
        n = begin + tl.arange(0, TILE)
        inside = n < stop
        slot = slots(table, begin, stop, kv_head, KV_HEADS, BLOCK_SIZE, TILE)
        k = tl.load(keys + slot[None, :] * HEAD_DIM + d[:, None], mask=inside[None, :], other=0.0)
        v = tl.load(values + slot[:, None] * HEAD_DIM + d[None, :], mask=inside[:, None], other=0.0)
        products = tl.where(inside[None, :], tl.dot(queries, k.to(queries.dtype)), float("-inf"))
        top, mass, acc = absorb(products, scale, v.to(queries.dtype), top, mass, acc)
    place = (slot_base + piece * rows + row).to(tl.int64) * heads + head
    tl.store(lse + place, top + tl.log2(mass), mask=real)
    tl.store(partial + place[:, None] * HEAD_DIM + d[None, :], acc / mass[:, None], mask=real[:, None])


def prefix_pieces(rows: int, heads: int, kv_heads: int, length: int, device: torch.device) -> int:
    """Into how many pieces a prefix is cut, so that every processor has work."""
    tiles = triton.cdiv(rows * heads // kv_heads, _ROWS) * kv_heads
    wanted = triton.cdiv(2 * processors(device), tiles)
    return max(1, min(wanted, length // _LEAST))


def shared_prefix_decode(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, prefix: torch.Tensor, length: int, tables: torch.Tensor,
    pieces: Pieces, out: torch.Tensor, workspace: tuple[torch.Tensor, torch.Tensor], *, scale: float,
) -> None:  # fmt: skip
    """Attention of one token a row, over the shared prefix and then its own context.

    prefix : (blocks,) int32, of `length` >= 1 tokens. tables, pieces : of the contexts after the prefix, own token
    included. workspace : `decode_workspace` of pieces.capacity + prefix_pieces(...) x rows. The rest as `paged_decode`.
    """
    rows, heads, head_dim = q.shape
    _, kv_heads, block_size, _ = keys.shape
    check_shape(head_dim, block_size)
    partial, lse = workspace
    group, count = heads // kv_heads, prefix_pieces(rows, heads, kv_heads, length, q.device)
    size = triton.cdiv(triton.cdiv(length, count), 128) * 128
    count = triton.cdiv(length, size)
    _prefix[lambda chosen: (triton.cdiv(rows * group, chosen["ROWS"]), count, kv_heads)](
        q, q.stride(0), keys, values, prefix, length, size, partial, lse, pieces.capacity, rows, scale * _LOG2E,
        triton.next_power_of_2(rows),
        KV_HEADS=kv_heads, GROUP=group, HEAD_DIM=head_dim, BLOCK_SIZE=block_size,
    )  # fmt: skip
    decode_pieces(q, keys, values, tables, pieces, partial, lse, scale=scale)
    merge(partial, lse, pieces, out, common_pieces=count)
