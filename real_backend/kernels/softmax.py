"""What the attention kernels share: addresses in the paged cache, and one step of the running softmax."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def slots(table, begin, stop, kv_head, KV_HEADS: tl.constexpr, BLOCK_SIZE: tl.constexpr, TILE: tl.constexpr):
    """Rows of the cache, as (blocks x kv_heads x block_size) rows, that hold TILE tokens of one head from `begin` on.

    table : block ids of the request. begin : a multiple of BLOCK_SIZE. stop : blocks from there on are not looked up.
    Each id is loaded once and spread over its block. 64-bit, as a cache may have more than 2**31 numbers.
    """
    i = begin // BLOCK_SIZE + tl.arange(0, TILE // BLOCK_SIZE)
    block = tl.load(table + i, mask=i * BLOCK_SIZE < stop, other=0).to(tl.int64)
    rows = ((block * KV_HEADS + kv_head) * BLOCK_SIZE)[:, None] + tl.arange(0, BLOCK_SIZE)[None, :]
    return tl.reshape(rows, (TILE,))


@triton.jit
def absorb(products, scale, values, top, mass, acc):
    """Take a tile of products of queries and keys, and its values, into the running softmax of each row.

    products x scale : scores, as base-2 logarithms; scale > 0, so that -inf stays what it is. A product is scaled and
    put below the level in one operation.
    top : greatest score so far. mass : sum of 2**(score - top). acc : sum of 2**(score - top) x value.
    A row that has seen nothing yet has top = -inf; it stays so while its products are -inf.
    """
    higher = tl.maximum(top, tl.max(products, 1) * scale)
    level = tl.where(higher == float("-inf"), 0.0, higher)
    keep = tl.exp2(top - level)
    weights = tl.exp2(products * scale - level[:, None])
    mass = mass * keep + tl.sum(weights, 1)
    acc = tl.dot(weights.to(values.dtype), values, acc * keep[:, None])
    return higher, mass, acc
