"""Every operator in plain torch, in the number type of its inputs; tensors are laid out as the kernels have them.

The kernels are tested against these in float64, and the engine computes with them on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight, over the last dimension."""
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


def rotary(x: torch.Tensor, positions: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Rotate the pairs (x_i, x_(i + dim/2)) of each head by the angle of their position.

    x : (tokens, heads, head_dim). positions : (tokens,). table : of `rotary_table`.
    """
    half = x.shape[-1] // 2
    cos, sin = table[positions].to(x.dtype)[:, :, None, :].unbind(1)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def rotary_table(positions: int, head_dim: int, theta: float, device: torch.device | str = "cpu") -> torch.Tensor:
    """Cosines and sines of `positions` x theta^(-2i / head_dim): (positions, 2, head_dim / 2) float32."""
    rates = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64, device=device) / head_dim)
    angles = torch.arange(positions, dtype=torch.float64, device=device)[:, None] * rates
    return torch.stack([angles.cos(), angles.sin()], dim=1).float()


def silu_mul(x: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up, where each row of x is gate and up side by side."""
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


def write_kv(
    key: torch.Tensor, value: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor
) -> None:
    """Put the key and value of each token (tokens, kv_heads, head_dim) into its slot of the cache, -1: nowhere.

    Numbers are clipped to what the cache can hold.
    """
    kept = slots >= 0
    block, offset = slots[kept] // keys.shape[2], slots[kept] % keys.shape[2]
    most = torch.finfo(keys.dtype).max
    for numbers, cache in ((key, keys), (value, values)):
        cache[block, :, offset] = numbers[kept].clamp(-most, most).to(cache.dtype)


def cached(cache: torch.Tensor, table: torch.Tensor, tokens: int) -> torch.Tensor:
    """The first `tokens` tokens of a request: (kv_heads, tokens, head_dim)."""
    _, heads, size, dim = cache.shape
    blocks = cache[table[: -(-tokens // size)].long()]
    return blocks.transpose(0, 1).reshape(heads, -1, dim)[:, :tokens]


def attention(
    q: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scale: float, window: int | None = None,
    seen: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Causal grouped-query attention of the last tokens of one request.

    q : (tokens, heads, head_dim), the last of those in key and value (kv_heads, length, head_dim).
    window : a token sees this many, itself included. seen : (heads, tokens, length) bool, what else limits it.
    """
    tokens, heads, _ = q.shape
    length = key.shape[1]
    group = heads // key.shape[0]
    position = torch.arange(length - tokens, length, device=q.device)[:, None]
    other = torch.arange(length, device=q.device)[None, :]
    mask = other <= position
    if window:
        mask = mask & (other > position - window)
    if seen is not None:
        mask = mask & seen
    key, value = (x.to(q.dtype).repeat_interleave(group, 0) for x in (key, value))
    mixed = F.scaled_dot_product_attention(q.transpose(0, 1), key, value, attn_mask=mask, scale=scale)
    return mixed.transpose(0, 1)


def paged_attention(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, tables: torch.Tensor, chunks: Sequence[int],
    contexts: Sequence[int], *, scale: float, window: int | None = None,
) -> torch.Tensor:  # fmt: skip
    """`attention` for a batch of requests, one after the other in q (tokens, heads, head_dim).

    chunks, contexts : of each request, its tokens in q and those cached before them.
    """
    parts, at = [], 0
    for i, (tokens, context) in enumerate(zip(chunks, contexts, strict=True)):
        key, value = (cached(cache, tables[i], context + tokens) for cache in (keys, values))
        parts.append(attention(q[at : at + tokens], key, value, scale=scale, window=window))
        at += tokens
    return torch.cat(parts)


def moe(
    x: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor, up: torch.Tensor, down: torch.Tensor
) -> torch.Tensor:
    """sum over the experts e of a token of weight_e * down_e(silu_mul(up_e(x))).

    x : (tokens, hidden). chosen, weights : (tokens, top_k). up : (experts, 2 x intermediate, hidden).
    down : (experts, hidden, intermediate).
    """
    out = torch.zeros_like(x)
    for expert in chosen.unique().tolist():
        token, place = (chosen == expert).nonzero(as_tuple=True)
        part = silu_mul(x[token] @ up[expert].T) @ down[expert].T
        out.index_add_(0, token, part * weights[token, place, None].to(x.dtype))
    return out
