"""Operations and bytes of attention over a cache that a technique has made smaller (`configs.compression`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..configs.compression import KVCompression
from ..configs.model import Attention
from .attention import Work
from .curve import Curve
from .operators import AttentionCall

# Vector operations that make a number of a code, counted as peaks count them, two an instruction: shift, mask, convert.
# Scale and zero are taken into the query and the sum (`real_backend/kernels/quantised_decode.py`).
_UNPACK = 6


def older_bytes(rule: KVCompression, cache_bytes: float) -> float:
    """Of one stored number of an older token."""
    return cache_bytes if rule.bits is None else (rule.bits + rule.scale_bits) / 8


def index_bytes(rule: KVCompression) -> float:
    """Of a kept token and KV head in one layer."""
    return rule.index_bytes / rule.index_layers


def compressed_decode(call: AttentionCall, rule: KVCompression, mixer: Attention, decodes: int) -> Work:
    """One token (or `call.queries`) for each of `decodes` requests, over the sum of their contexts; the mean context
    stands for all."""
    numbers = 2 * mixer.kv_heads * mixer.head_dim  # of a token
    query = 2.0 * mixer.heads * mixer.head_dim * call.queries
    rows = query * call.dtype_bytes

    def curve(per_request: Callable[[float], float]) -> Curve:
        """What a request costs, over its tokens; with itself a token sees one more than its context."""
        knots = [knot - 1 for knot in rule.knots()]
        return _over(knots, lambda context: per_request(context + 1)).stretched(decodes).times(decodes)

    return Work(
        flops=curve(lambda tokens: 2.0 * query * sum(rule.seen(tokens))),
        bytes=curve(lambda tokens: rows + _device_bytes(call, rule, mixer, rule.seen(tokens), tokens)),
        unpacking=curve(lambda tokens: _unpacking(rule, numbers * rule.seen(tokens)[1])),
        fetched=curve(lambda tokens: _fetched(call, rule, numbers * rule.seen(tokens)[1])),
    )


def compressed_prefill(call: AttentionCall, rule: KVCompression, mixer: Attention, tokens: int) -> Work:
    """`tokens` consecutive tokens of one prompt, over the tokens of it that are in the cache: they see each other and
    what has been kept of the rest."""
    numbers = 2 * mixer.kv_heads * mixer.head_dim
    rows = tokens * (2.0 * mixer.heads * mixer.head_dim * call.dtype_bytes + numbers * call.cache_bytes)
    triangle = tokens * (tokens + 1) / 2

    def curve(over_context: Callable[[float], float]) -> Curve:
        return _over(rule.knots(), over_context)

    def pairs(context: float) -> float:
        return rule.prefill * (triangle + tokens * sum(rule.kept(context)))

    return Work(
        flops=curve(lambda context: 4.0 * mixer.heads * mixer.head_dim * pairs(context)),
        bytes=curve(lambda context: rows + _device_bytes(call, rule, mixer, rule.kept(context), 0)),
        unpacking=curve(lambda context: _unpacking(rule, numbers * rule.kept(context)[1])),
        fetched=curve(lambda context: _fetched(call, rule, numbers * (tokens + rule.kept(context)[1]))),
    )


def _device_bytes(
    call: AttentionCall, rule: KVCompression, mixer: Attention, read: tuple[float, float], tokens: float
) -> float:
    """Keys and values that are read, and the index of all `tokens`."""
    numbers = 2 * mixer.kv_heads * mixer.head_dim
    recent, older = read
    index = mixer.kv_heads * index_bytes(rule) * sum(rule.kept(tokens))
    return numbers * (recent * call.cache_bytes + older * older_bytes(rule, call.cache_bytes)) + index


def _unpacking(rule: KVCompression, numbers: float) -> float:
    return 0.0 if rule.bits is None else _UNPACK * numbers


def _fetched(call: AttentionCall, rule: KVCompression, numbers: float) -> float:
    """Bytes over the link to the host."""
    return numbers * older_bytes(rule, call.cache_bytes) if rule.tier == "host" else 0.0


def _over(knots: Iterable[float], value: Callable[[float], float]) -> Curve:
    """The piecewise-linear curve of a function that bends at `knots` only."""
    xs = sorted({0.0, *(knot for knot in knots if knot > 0)})
    ys = [value(x) for x in xs]
    return Curve(tuple(xs), tuple(ys), value(xs[-1] + 1) - ys[-1])
