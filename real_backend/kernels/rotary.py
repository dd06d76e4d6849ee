"""Rotary position embedding in place: (a, b) -> (a cos - b sin, b cos + a sin), a and b the halves of each head.

The angle of pair i at position p is p x theta^(-2i / head_dim). Before that, where a model has it, each head is
normalised: x / sqrt(mean(x^2) + eps) * weight. Source: Su et al., 2021 (RoFormer), in the layout of GPT-NeoX and Llama
checkpoints; the norms of Qwen3 (2025).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _rotate(
    x, token_start, weight, eps, cos, sin, HEADS: tl.constexpr, HEADS_UP: tl.constexpr, HALF: tl.constexpr,
    NORM: tl.constexpr,
):  # fmt: skip
    head, i = tl.arange(0, HEADS_UP)[:, None], tl.arange(0, HALF)
    place = x + token_start + head * (2 * HALF) + i[None, :]
    real = head < HEADS
    a = tl.load(place, mask=real, other=0.0).to(tl.float32)
    b = tl.load(place + HALF, mask=real, other=0.0).to(tl.float32)
    if NORM:
        size = tl.rsqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / (2 * HALF) + eps)[:, None]
        a = a * size * tl.load(weight + i).to(tl.float32)[None, :]
        b = b * size * tl.load(weight + HALF + i).to(tl.float32)[None, :]
    tl.store(place, (a * cos - b * sin).to(x.dtype.element_ty), mask=real)
    tl.store(place + HALF, (b * cos + a * sin).to(x.dtype.element_ty), mask=real)


@triton.jit
def _rotary(
    q, k, positions, table, q_stride, k_stride, q_weight, k_weight, eps, HEADS: tl.constexpr, HEADS_UP: tl.constexpr,
    KV_HEADS: tl.constexpr, KV_HEADS_UP: tl.constexpr, HALF: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    angles = table + tl.load(positions + token) * (2 * HALF) + tl.arange(0, HALF)
    cos, sin = tl.load(angles)[None, :], tl.load(angles + HALF)[None, :]
    _rotate(q, token * q_stride, q_weight, eps, cos, sin, HEADS, HEADS_UP, HALF, NORM)
    _rotate(k, token * k_stride, k_weight, eps, cos, sin, KV_HEADS, KV_HEADS_UP, HALF, NORM)


def rotary(
    q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor, table: torch.Tensor,
    norms: tuple[torch.Tensor, torch.Tensor] | None = None, *, eps: float = 1e-6,
) -> None:  # fmt: skip
    """Rotate the heads of each token.

    q, k : (tokens, heads, head_dim) and (tokens, kv_heads, head_dim); a token's numbers lie side by side.
    positions : (tokens,) int64. table : of `reference.rotary_table`, on the device. norms : the weights (head_dim,) of
    the query heads' norm and the key heads', or None for no norm.
    """
    tokens, heads, head_dim = q.shape
    kv_heads = k.shape[1]
    q_weight, k_weight = norms or (q, k)
    _rotary[(tokens,)](
        q, k, positions, table, q.stride(0), k.stride(0), q_weight, k_weight, eps, HEADS=heads,
        HEADS_UP=triton.next_power_of_2(heads), KV_HEADS=kv_heads, KV_HEADS_UP=triton.next_power_of_2(kv_heads),
        HALF=head_dim // 2, NORM=norms is not None,
    )  # fmt: skip
