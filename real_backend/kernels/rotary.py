"""Rotary position embedding in place: (a, b) -> (a cos - b sin, b cos + a sin), a and b the halves of each head.

The angle of pair i at position p is p x theta^(-2i / head_dim). Source: Su et al., 2021 (RoFormer), in the layout of
GPT-NeoX and Llama checkpoints.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _rotate(x, token_start, cos, sin, HEADS: tl.constexpr, HEADS_UP: tl.constexpr, HALF: tl.constexpr):
    head, i = tl.arange(0, HEADS_UP)[:, None], tl.arange(0, HALF)[None, :]
    place = x + token_start + head * (2 * HALF) + i
    real = head < HEADS
    a = tl.load(place, mask=real).to(tl.float32)
    b = tl.load(place + HALF, mask=real).to(tl.float32)
    tl.store(place, (a * cos - b * sin).to(x.dtype.element_ty), mask=real)
    tl.store(place + HALF, (b * cos + a * sin).to(x.dtype.element_ty), mask=real)


@triton.jit
def _rotary(
    q, k, positions, table, q_stride, k_stride, HEADS: tl.constexpr, HEADS_UP: tl.constexpr,
    KV_HEADS: tl.constexpr, KV_HEADS_UP: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    angles = table + tl.load(positions + token) * (2 * HALF) + tl.arange(0, HALF)
    cos, sin = tl.load(angles)[None, :], tl.load(angles + HALF)[None, :]
    _rotate(q, token * q_stride, cos, sin, HEADS, HEADS_UP, HALF)
    _rotate(k, token * k_stride, cos, sin, KV_HEADS, KV_HEADS_UP, HALF)


def rotary(q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor, table: torch.Tensor) -> None:
    """Rotate the heads of each token.

    q, k : (tokens, heads, head_dim) and (tokens, kv_heads, head_dim); a token's numbers lie side by side.
    positions : (tokens,) int64. table : of `reference.rotary_table`, on the device.
    """
    tokens, heads, head_dim = q.shape
    kv_heads = k.shape[1]
    _rotary[(tokens,)](
        q, k, positions, table, q.stride(0), k.stride(0), HEADS=heads, HEADS_UP=triton.next_power_of_2(heads),
        KV_HEADS=kv_heads, KV_HEADS_UP=triton.next_power_of_2(kv_heads), HALF=head_dim // 2,
    )  # fmt: skip
