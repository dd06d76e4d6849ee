"""Block-sparse causal attention of a prompt chunk: each tile of queries of a head sees the listed tiles of keys only.

out[t, h] = softmax over n <= position(t), tile(n) in columns[h, tile(t)]. Patterns by head (MoA's spans, S2's shards,
DHSA's chosen chunks, sinks and windows) are lists of tiles here; a list that leaves tiles out leaves their work out.
Source: block-sparse FlashAttention (Dao et al., 2022); MoA (Fu et al., 2024), S2-Attention (Lin et al., 2024).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ...errors import InputError
from .softmax import absorb, slots
from .tuning import check_shape, configs, tuned

_LOG2E = 1.4426950408889634


@tuned(configs(warps=(4, 8), stages=(2, 3)), key=["SPAN", "HEAD_DIM"])
@triton.jit(do_not_specialize=["tiles", "context", "tokens"], do_not_specialize_on_alignment=["table"])
def _sparse_prefill(
    q, q_stride, keys, values, table, first, columns, tiles, context, tokens, out, scale,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    SPAN: tl.constexpr,
):  # fmt: skip
    tile, head = tl.num_programs(0) - 1 - tl.program_id(0), tl.program_id(1)
    heads: tl.constexpr = KV_HEADS * GROUP
    token, d = tile * SPAN + tl.arange(0, SPAN), tl.arange(0, HEAD_DIM)
    real = token < tokens
    place = (token.to(tl.int64) * heads + head)[:, None] * HEAD_DIM + d[None, :]
    source = q + token.to(tl.int64)[:, None] * q_stride + head * HEAD_DIM + d[None, :]
    queries = tl.load(source, mask=real[:, None], other=0.0)
    position, length = context + token, context + tokens
    top = tl.full([SPAN], float("-inf"), tl.float32)
    mass = tl.zeros([SPAN], tl.float32)
    acc = tl.zeros([SPAN, HEAD_DIM], tl.float32)
    begin, end = tl.load(first + head * (tiles + 1) + tile), tl.load(first + head * (tiles + 1) + tile + 1)
    for i in range(begin, end):
        start = tl.load(columns + i) * SPAN
        n = start + tl.arange(0, SPAN)
        inside = n < length
        slot = slots(table, start, length, head // GROUP, KV_HEADS, BLOCK_SIZE, SPAN)
        k = tl.load(keys + slot[None, :] * HEAD_DIM + d[:, None], mask=inside[None, :], other=0.0)
        v = tl.load(values + slot[:, None] * HEAD_DIM + d[None, :], mask=inside[:, None], other=0.0)
        products = tl.dot(queries, k.to(queries.dtype))
        products = tl.where(n[None, :] <= position[:, None], products, float("-inf"))
        top, mass, acc = absorb(products, scale, v.to(queries.dtype), top, mass, acc)
    mean = acc / tl.where(mass == 0, 1.0, mass)[:, None]
    tl.store(out + place, mean.to(out.dtype.element_ty), mask=real[:, None])


def sparse_prefill(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, table: torch.Tensor, first: torch.Tensor,
    columns: torch.Tensor, context: int, out: torch.Tensor, *, scale: float, span: int,
) -> None:  # fmt: skip
    """Attention of the last tokens of one request. A token that sees nothing gets zeros.

    q, out : (tokens, heads, head_dim); tokens - 1 + context is the position of the last.
    table : (blocks,) int32. span : tokens of a tile, of queries and of keys: 16, 32, 64 or 128.
    first, columns : the tiles of keys that tile i of queries of head h sees are columns[first[h, i] : first[h, i + 1]];
    first is (heads, tiles + 1) int32, columns int32. The rest as `paged_prefill`.
    """
    tokens, heads, head_dim = q.shape
    _, kv_heads, block_size, _ = keys.shape
    check_shape(head_dim, block_size)
    if span not in (16, 32, 64, 128) or span < block_size:
        raise InputError("span", str(span), f"16, 32, 64 or 128 tokens, at least the {block_size} of a block")
    tiles = triton.cdiv(tokens, span)
    _sparse_prefill[(tiles, heads)](
        q, q.stride(0), keys, values, table, first, columns, tiles, context, tokens, out, scale * _LOG2E,
        KV_HEADS=kv_heads, GROUP=heads // kv_heads, HEAD_DIM=head_dim, BLOCK_SIZE=block_size, SPAN=span,
    )  # fmt: skip
