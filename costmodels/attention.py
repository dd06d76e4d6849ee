"""Operations and bytes of mixing tokens in one layer: attention over a cache, latent attention, a state-space scan.

Contexts are tokens in the cache before the iteration; a token also sees itself. Softmax and masks are left out: they
are a few operations a pair of tokens where the two products take four a head dimension. A key or value is read once
a call; kernels that read it again for every block of queries find it in the chip's cache.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..configs.model import LatentAttention, StateSpace
from .curve import Curve, total
from .operators import AttentionCall

_CHORDS = 8  # straight pieces for the stretch where a chunk grows into its window (off by at most 1/512 of it)


_NONE = Curve.line(0, 0)


@dataclass(frozen=True)
class Work:
    """Operations and bytes, each over a number of context tokens.

    unpacking : vector operations beside the products. fetched : bytes over the link to the host.
    """

    flops: Curve
    bytes: Curve
    unpacking: Curve = _NONE
    fetched: Curve = _NONE


def state_numbers(mixer: StateSpace) -> int:
    """Numbers that a request keeps in one state-space layer: the state and the tail of the convolution."""
    return mixer.inner * mixer.state_size + mixer.conv_channels * (mixer.conv_kernel - 1)


def decode_work(call: AttentionCall, decodes: int) -> Work:
    """One token (or `call.queries`) for each of `decodes` requests, over the sum of their contexts.

    With a sliding window the mean context stands for all: sum(min(context, window)) is taken as
    min(sum(context), decodes x window), exact where no request or every request has outgrown the window.
    """
    mixer, dtype, tokens = call.mixer, call.dtype_bytes, decodes * call.queries
    if isinstance(mixer, StateSpace):
        return _scan(mixer, call, tokens, decodes)
    if isinstance(mixer, LatentAttention):  # queries and outputs are brought into the latent space ("absorbed")
        seen = Curve.line(tokens, 1)
        width = mixer.kv_lora_rank + mixer.qk_rope_head_dim
        rows = 1.0 * tokens * mixer.heads * (width + mixer.kv_lora_rank) * dtype
        flops = seen.times(2.0 * mixer.heads * (width + mixer.kv_lora_rank) * call.queries)
        return Work(flops, total([seen.times(width * call.cache_bytes), Curve.line(rows, 0)]))
    seen = _capped(tokens, decodes * mixer.window if mixer.window else None)
    rows = 2.0 * tokens * mixer.heads * mixer.head_dim * dtype
    keys_values = seen.times(2 * mixer.kv_heads * mixer.head_dim * call.cache_bytes)
    flops = seen.times(4.0 * mixer.heads * mixer.head_dim * call.queries)
    return Work(flops, total([keys_values, Curve.line(rows, 0)]))


def prefill_work(call: AttentionCall, tokens: int) -> Work:
    """`tokens` consecutive tokens of one prompt, over the tokens of it that are in the cache."""
    mixer, dtype = call.mixer, call.dtype_bytes
    if isinstance(mixer, StateSpace):
        return _scan(mixer, call, tokens, 1)
    if isinstance(mixer, LatentAttention):  # the cached latent vectors are expanded to keys and values again
        expanded = mixer.heads * (mixer.qk_nope_head_dim + mixer.v_head_dim)
        width = mixer.heads * (mixer.qk_nope_head_dim + mixer.qk_rope_head_dim + mixer.v_head_dim)
        expansion = Curve.line(0, 2.0 * mixer.kv_lora_rank * expanded)
        flops = total([_pairs(tokens, None).times(2.0 * width), expansion])
        latent = Curve.line(tokens, 1).times((mixer.kv_lora_rank + mixer.qk_rope_head_dim) * call.cache_bytes)
        return Work(flops, total([latent, Curve.line(tokens * width * dtype, 2.0 * expanded * dtype)]))
    read = _capped(tokens, mixer.window - 1 + tokens if mixer.window else None)
    rows = 2.0 * tokens * mixer.heads * mixer.head_dim * dtype
    keys_values = read.times(2 * mixer.kv_heads * mixer.head_dim * call.cache_bytes)
    flops = _pairs(tokens, mixer.window).times(4.0 * mixer.heads * mixer.head_dim)
    return Work(flops, total([keys_values, Curve.line(rows, 0)]))


def _scan(mixer: StateSpace, call: AttentionCall, tokens: int, requests: int) -> Work:
    """Decay, update and read the state: 6 operations a number and token; the context plays no part."""
    flops = 6.0 * tokens * mixer.inner * mixer.state_size
    moved = 2.0 * requests * state_numbers(mixer) + 2.0 * tokens * mixer.inner
    return Work(Curve.line(flops, 0), Curve.line(moved * call.dtype_bytes, 0))


def _capped(start: int, cap: int | None) -> Curve:
    """start + x, at most `cap`."""
    if cap is None:
        return Curve.line(start, 1)
    return Curve((0.0, float(cap - start)), (start, cap), 0) if cap > start else Curve.line(cap, 0)


def _pairs(tokens: int, window: int | None) -> Curve:
    """Pairs of a new token and a token it sees, over the context: sum of min(context + i, window), i = 1..tokens."""
    triangle = tokens * (tokens + 1) / 2
    if window is None:
        return Curve.line(triangle, tokens)

    def seen(context: float) -> float:
        growing = min(max(window - context, 0.0), tokens)  # new tokens that still see everything
        return growing * context + growing * (growing + 1) / 2 + (tokens - growing) * window

    full = max(0, window - tokens)  # up to this context all of them do
    xs = tuple(sorted({0.0, *(full + (window - full) * i / _CHORDS for i in range(_CHORDS + 1))}))
    return Curve(xs, tuple(seen(x) for x in xs), 0)
