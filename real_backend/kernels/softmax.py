"""What the attention kernels share: addresses in the paged cache, and one step of the running softmax."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def slots(table, n, inside, kv_head, KV_HEADS: tl.constexpr, BLOCK_SIZE: tl.constexpr):
    """Rows of the cache, as (blocks x kv_heads x block_size) rows, that hold the tokens `n` of one head.

    table : block ids of the request. 64-bit, as a cache may have more than 2**31 numbers.
    """
    block = tl.load(table + n // BLOCK_SIZE, mask=inside, other=0).to(tl.int64)
    return (block * KV_HEADS + kv_head) * BLOCK_SIZE + n % BLOCK_SIZE


@triton.jit
def absorb(scores, values, top, mass, acc):
    """Take a tile of scores (base-2 logarithms) and its values into the running softmax of each row.

    top : greatest score so far. mass : sum of 2**(score - top). acc : sum of 2**(score - top) x value.
    A row that has seen nothing yet has top = -inf; it stays so while its scores are -inf.
    """
    higher = tl.maximum(top, tl.max(scores, 1))
    level = tl.where(higher == float("-inf"), 0.0, higher)
    keep = tl.exp2(top - level)
    weights = tl.exp2(scores - level[:, None])
    mass = mass * keep + tl.sum(weights, 1)
    acc = tl.dot(weights.to(values.dtype), values, acc * keep[:, None])
    return higher, mass, acc
