"""KV write (reshape and cache): keys[block, h, offset] = key[t, h], slot[t] = block x block_size + offset; and values.

Source: `reshape_and_cache` of vLLM (Kwon et al., 2023).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_FP8_MAX = 448.0  # of e4m3fn


@triton.jit
def _kv_write(
    key, value, keys, values, slots, key_stride, value_stride, key_factor, value_factor,
    KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr, NUMBERS: tl.constexpr,
    LIMIT: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token)
    if slot < 0:
        return
    i = tl.arange(0, NUMBERS)
    real = i < KV_HEADS * HEAD_DIM
    head = (slot // BLOCK_SIZE) * KV_HEADS + i // HEAD_DIM
    place = (head * BLOCK_SIZE + slot % BLOCK_SIZE) * HEAD_DIM + i % HEAD_DIM
    k = tl.load(key + token * key_stride + i, mask=real)
    v = tl.load(value + token * value_stride + i, mask=real)
    if LIMIT > 0:
        k = tl.clamp(k.to(tl.float32) * key_factor, -LIMIT, LIMIT)
        v = tl.clamp(v.to(tl.float32) * value_factor, -LIMIT, LIMIT)
    tl.store(keys + place, k.to(keys.dtype.element_ty), mask=real)
    tl.store(values + place, v.to(values.dtype.element_ty), mask=real)


def kv_write(
    key: torch.Tensor, value: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor,
    *, key_scale: float = 1.0, value_scale: float = 1.0,
) -> None:  # fmt: skip
    """Put the key and value of each token into its slot.

    key, value : (tokens, kv_heads, head_dim); a token's numbers lie side by side, tokens may be further apart.
    keys, values : (blocks, kv_heads, block_size, head_dim), contiguous, of the same dtype or float8_e4m3fn.
    slots : (tokens,) int64, -1 for a token that goes nowhere.
    key_scale, value_scale : an 8-bit cache holds the numbers divided by these, clipped to what it can hold.
    """
    tokens, kv_heads, head_dim = key.shape
    eight_bit = keys.dtype == torch.float8_e4m3fn
    _kv_write[(tokens,)](
        key, value, keys, values, slots, key.stride(0), value.stride(0), 1 / key_scale, 1 / value_scale,
        KV_HEADS=kv_heads, HEAD_DIM=head_dim, BLOCK_SIZE=keys.shape[2],
        NUMBERS=triton.next_power_of_2(kv_heads * head_dim), LIMIT=_FP8_MAX if eight_bit else 0.0,
    )  # fmt: skip
