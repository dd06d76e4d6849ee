"""Decode attention over a cache of 8-, 4- or 2-bit codes, and the latest tokens in full (KIVI).

    key = code * key_scale[channel] + key_zero[channel]      per block of tokens and channel
    value = code * value_scale[token] + value_zero[token]    per token and plane of channels

A byte holds 8 / bits codes, of channels head_dim * bits / 8 apart: plane j of a head is its j-th part of that many
channels. A key's scale is taken into the query, q . (c s + z) = (q s) . c + q . z, once a block instead of once a key.
Source: KIVI (Liu et al., 2024): keys by channel, values by token, a window of recent tokens unquantised.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from .merge import merge
from .paged_decode import decode_pieces
from .pieces import Pieces
from .softmax import absorb
from .tuning import check_shape, configs, tile_rows, tuned

_LOG2E = 1.4426950408889634


@dataclass(frozen=True)
class QuantisedCache:
    """A paged cache of codes.

    key_codes, value_codes : (blocks, kv_heads, block_size, head_dim x bits / 8) uint8.
    key_scale, key_zero : (blocks, kv_heads, head_dim) 16-bit floats.
    value_scale, value_zero : (blocks, kv_heads, block_size, planes) 16-bit floats; 8 / bits planes.
    """

    bits: int
    key_codes: torch.Tensor
    key_scale: torch.Tensor
    key_zero: torch.Tensor
    value_codes: torch.Tensor
    value_scale: torch.Tensor
    value_zero: torch.Tensor


@tuned(configs(warps=(4,), stages=(2, 3, 5)), key=["bucket", "GROUP", "BITS"])
@triton.jit(do_not_specialize=["table_stride", "bucket"], do_not_specialize_on_alignment=["tables"])
def _quantised_decode(
    q, q_stride, key_codes, key_scale, key_zero, value_codes, value_scale, value_zero, tables, table_stride,
    piece_row, piece_start, piece_stop, partial, lse, scale, bucket,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    PLANES: tl.constexpr = 8 // BITS
    WIDTH: tl.constexpr = HEAD_DIM // PLANES
    MASK: tl.constexpr = (1 << BITS) - 1
    piece, kv_head = tl.program_id(0), tl.program_id(1)
    row = tl.load(piece_row + piece)
    if row < 0:
        return
    start, stop = tl.load(piece_start + piece), tl.load(piece_stop + piece)
    heads: tl.constexpr = KV_HEADS * GROUP
    g, d, w, j = tl.arange(0, ROWS), tl.arange(0, HEAD_DIM), tl.arange(0, WIDTH), tl.arange(0, PLANES)
    n = tl.arange(0, BLOCK_SIZE)
    head = kv_head * GROUP + g
    queries = tl.load(q + row * q_stride + head[:, None] * HEAD_DIM + d[None, :], mask=(g < GROUP)[:, None], other=0.0)
    shifts = (j * BITS).to(tl.uint8)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    mass = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, HEAD_DIM], tl.float32)
    for i in range(start // BLOCK_SIZE, tl.cdiv(stop, BLOCK_SIZE)):
        block = tl.load(tables + row * table_stride + i).to(tl.int64) * KV_HEADS + kv_head
        s, z = tl.load(key_scale + block * HEAD_DIM + d), tl.load(key_zero + block * HEAD_DIM + d)
        scaled = queries.to(tl.float32) * s[None, :].to(tl.float32)
        offset = tl.sum(queries.to(tl.float32) * z[None, :].to(tl.float32), 1)
        packed = tl.load(key_codes + (block * BLOCK_SIZE + n)[None, :] * WIDTH + w[:, None])
        codes = (packed[None, :, :] >> shifts[:, None, None]) & MASK
        k = tl.reshape(codes, (HEAD_DIM, BLOCK_SIZE)).to(queries.dtype)
        products = tl.dot(scaled.to(queries.dtype), k) + offset[:, None]
        products = tl.where((i * BLOCK_SIZE + n < stop)[None, :], products, float("-inf"))
        packed = tl.load(value_codes + (block * BLOCK_SIZE + n)[:, None] * WIDTH + w[None, :])
        codes = ((packed[:, None, :] >> shifts[None, :, None]) & MASK).to(tl.float32)
        at = (block * BLOCK_SIZE + n)[:, None] * PLANES + j[None, :]
        s, z = tl.load(value_scale + at).to(tl.float32), tl.load(value_zero + at).to(tl.float32)
        v = tl.reshape(codes * s[:, :, None] + z[:, :, None], (BLOCK_SIZE, HEAD_DIM)).to(queries.dtype)
        top, mass, acc = absorb(products, scale, v, top, mass, acc)
    place = piece.to(tl.int64) * heads + head
    tl.store(lse + place, top + tl.log2(mass), mask=g < GROUP)
    tl.store(partial + place[:, None] * HEAD_DIM + d[None, :], acc / mass[:, None], mask=(g < GROUP)[:, None])


def quantised_decode(
    q: torch.Tensor, cache: QuantisedCache, tables: torch.Tensor, pieces: Pieces,
    tail: tuple[torch.Tensor, torch.Tensor, torch.Tensor], tail_pieces: Pieces, out: torch.Tensor,
    workspace: tuple[torch.Tensor, torch.Tensor], *, scale: float,
) -> None:  # fmt: skip
    """Attention of one token a row, over the quantised tokens of its context and then the latest, unquantised ones.

    tables, pieces : of the quantised tokens, whole blocks of at least 16 tokens.
    tail : keys, values and tables of the latest tokens, the row's own included, as `paged_decode` has them.
    tail_pieces : exactly one piece a row (a tail of at most 256 tokens). workspace : `decode_workspace` of
    pieces.capacity + rows. q, out, scale : as `paged_decode`.
    """
    _, heads, head_dim = q.shape
    _, kv_heads, block_size, _ = cache.key_codes.shape
    check_shape(head_dim, block_size)
    partial, lse = workspace
    group = heads // kv_heads
    _quantised_decode[(pieces.capacity, kv_heads)](
        q, q.stride(0), cache.key_codes, cache.key_scale, cache.key_zero, cache.value_codes, cache.value_scale,
        cache.value_zero, tables, tables.stride(0), pieces.row, pieces.start, pieces.stop, partial, lse, scale * _LOG2E,
        triton.next_power_of_2(pieces.capacity),
        KV_HEADS=kv_heads, GROUP=group, ROWS=tile_rows(group), HEAD_DIM=head_dim, BLOCK_SIZE=block_size,
        BITS=cache.bits,
    )  # fmt: skip
    keys, values, tail_tables = tail
    rest = slice(pieces.capacity, None)
    decode_pieces(q, keys, values, tail_tables, tail_pieces, partial[rest], lse[rest], scale=scale)
    merge(partial, lse, pieces, out, common_pieces=1)
