"""Causal attention of prompt chunks on a cached prefix: out[t, h] = softmax(scale q[t, h] . K[: p + 1]) V[: p + 1].

p is the position of token t.

The chunks of a batch lie one after the other in q; their own keys and values are in the paged cache already, after the
prefix. A program computes a tile of consecutive tokens for all heads of a group, so that a key is read once for the
group and the diagonal wastes little. Tiles that see most are started first.
Source: FlashAttention-2 (Dao, 2023); the search for a tile's request as in vLLM's unified Triton attention.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .softmax import absorb, slots
from .tuning import check_shape, configs, tuned

_LOG2E = 1.4426950408889634


@triton.jit
def request_of(tile, first_token, requests, TOKENS: tl.constexpr):
    """The request whose tiles of TOKENS tokens include `tile`, where request i has its first tile at
    first_token[i] // TOKENS + i: room enough for every request's last, incomplete tile."""
    low, high = 0, requests
    while low < high:
        middle = (low + high) // 2
        if tl.load(first_token + middle) // TOKENS + middle <= tile:
            low = middle + 1
        else:
            high = middle
    return low - 1


@triton.jit
def _sweep(
    queries, keys, values, table, kv_head, begin, end, position, length, scale, top, mass, acc,
    KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr, TILE: tl.constexpr,
    WINDOW: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Absorb the tokens from `begin` to `end`; where MASKED, each row only those up to its position."""
    d = tl.arange(0, HEAD_DIM)
    for start in range(begin, end, TILE):
        n = start + tl.arange(0, TILE)
        inside = n < length
        slot = slots(table, start, length, kv_head, KV_HEADS, BLOCK_SIZE, TILE)
        if MASKED:
            k = tl.load(keys + slot[None, :] * HEAD_DIM + d[:, None], mask=inside[None, :], other=0.0)
            v = tl.load(values + slot[:, None] * HEAD_DIM + d[None, :], mask=inside[:, None], other=0.0)
        else:
            k = tl.load(keys + slot[None, :] * HEAD_DIM + d[:, None])
            v = tl.load(values + slot[:, None] * HEAD_DIM + d[None, :])
        products = tl.dot(queries, k.to(queries.dtype))
        if MASKED:
            seen = n[None, :] <= position[:, None]
            if WINDOW > 0:
                seen = seen & (n[None, :] > position[:, None] - WINDOW)
            products = tl.where(seen, products, float("-inf"))
        top, mass, acc = absorb(products, scale, v.to(queries.dtype), top, mass, acc)
    return top, mass, acc


# Stages as in `paged_decode`; other combinations spill registers at a head of 128.
@tuned(
    configs(warps=(4,), stages=(3,), ROWS=(64,), TILE=(64,))
    + configs(warps=(8,), stages=(3, 5), ROWS=(128,), TILE=(64,))
    + configs(warps=(8,), stages=(3,), ROWS=(128,), TILE=(128,)),
    key=["bucket", "KV_HEADS", "GROUP", "HEAD_DIM", "WINDOW"],
)
@triton.jit(do_not_specialize=["table_stride", "requests", "bucket"], do_not_specialize_on_alignment=["tables"])
def _paged_prefill(
    q, q_stride, keys, values, tables, table_stride, first_token, contexts, requests, out, scale, bucket,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    TOKENS: tl.constexpr = ROWS // GROUP
    heads: tl.constexpr = KV_HEADS * GROUP
    kv_head = tl.program_id(1)
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    request = request_of(tile, first_token, requests, TOKENS)
    first, end = tl.load(first_token + request), tl.load(first_token + request + 1)
    start = first + (tile - (first // TOKENS + request)) * TOKENS
    if start >= end:
        return
    context = tl.load(contexts + request)
    m, d = tl.arange(0, ROWS), tl.arange(0, HEAD_DIM)
    token = start + m // GROUP
    real = (token < end) & (m < TOKENS * GROUP)
    head = kv_head * GROUP + m % GROUP
    place = (token.to(tl.int64) * heads + head)[:, None] * HEAD_DIM + d[None, :]
    source = q + token.to(tl.int64)[:, None] * q_stride + head[:, None] * HEAD_DIM + d[None, :]
    queries = tl.load(source, mask=real[:, None], other=0.0)
    position = context + token - first
    table = tables + request.to(tl.int64) * table_stride
    top = tl.full([ROWS], float("-inf"), tl.float32)
    mass = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, HEAD_DIM], tl.float32)
    length = context + tl.minimum(start + TOKENS, end) - first  # tokens that the last row sees
    whole = (context + start - first + 1) // TILE * TILE  # up to here every row sees everything
    if WINDOW > 0:
        whole = 0
        begin = tl.maximum(context + start - first - WINDOW + 1, 0) // TILE * TILE
    else:
        begin = whole
    top, mass, acc = _sweep(
        queries, keys, values, table, kv_head, 0, whole, position, length, scale, top, mass, acc,
        KV_HEADS, HEAD_DIM, BLOCK_SIZE, TILE, WINDOW, False,
    )  # fmt: skip
    top, mass, acc = _sweep(
        queries, keys, values, table, kv_head, begin, length, position, length, scale, top, mass, acc,
        KV_HEADS, HEAD_DIM, BLOCK_SIZE, TILE, WINDOW, True,
    )  # fmt: skip
    mean = acc / tl.where(real, mass, 1.0)[:, None]
    tl.store(out + place, mean.to(out.dtype.element_ty), mask=real[:, None])


def paged_prefill(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    tables: torch.Tensor,
    first_token: torch.Tensor,
    contexts: torch.Tensor,
    out: torch.Tensor,
    *,
    scale: float,
    value_scale: float = 1.0,
    window: int | None = None,
) -> None:
    """Attention of the chunks of several prompts.

    q, out : (tokens, heads, head_dim); rows of q may lie apart, out is contiguous. keys, values : (blocks, kv_heads,
    block_size, head_dim), contiguous, of the dtype of q or float8_e4m3fn. tables : (requests, blocks a request) int32.
    first_token : (requests + 1,) int32, where each chunk begins in q, and its end. contexts : (requests,) int32,
    tokens cached before the chunk.
    scale, value_scale : as of `paged_decode`. window : a token sees this many tokens, itself included.
    """
    tokens, heads, head_dim = q.shape
    _, kv_heads, block_size, _ = keys.shape
    requests, group = len(contexts), heads // kv_heads
    check_shape(head_dim, block_size, group)
    _paged_prefill[lambda chosen: (tokens // (chosen["ROWS"] // group) + requests, kv_heads)](
        q, q.stride(0), keys, values, tables, tables.stride(0), first_token, contexts, requests, out, scale * _LOG2E,
        triton.next_power_of_2(tokens),
        KV_HEADS=kv_heads, GROUP=group, HEAD_DIM=head_dim, BLOCK_SIZE=block_size, WINDOW=window or 0,
    )  # fmt: skip
    if value_scale != 1.0:
        out.mul_(value_scale)
