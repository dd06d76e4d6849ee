"""Decode attention of requests that begin with the same tokens: what they share is read once.

Source: Hydragen (Juravsky et al., 2024): attention over the shared prefix of a batch is one product of matrices, that
over each suffix is as ever, and the two are merged by their sums of exponentials. A tree is a sum over its levels.
"""

from __future__ import annotations

from ..configs.model import Attention
from .attention import Work, decode_work
from .curve import Curve
from .operators import AttentionCall

_PARTIAL_BYTES = 4  # of a number of a partial result, written and read again


def suffix_work(call: AttentionCall, decodes: int) -> Work:
    """What is left for attention request by request, over the sum of contexts, prefixes included."""
    return _moved(decode_work(call, decodes), decodes * sum(level.tokens for level in call.shared))


def level_works(call: AttentionCall, mixer: Attention, decodes: int) -> list[Work]:
    """One product a level; where the mean context is shorter than the prefix, it is taken to reach it."""
    works = []
    numbers = 2 * mixer.kv_heads * mixer.head_dim
    query = mixer.heads * mixer.head_dim * call.queries
    for level in call.shared:
        read = min(decodes, level.groups) * level.tokens * numbers * call.cache_bytes
        rows = decodes * query * (call.dtype_bytes + 2 * _PARTIAL_BYTES)
        flops = 4.0 * query * decodes * level.tokens
        works.append(Work(Curve.line(flops, 0), Curve.line(float(read + rows), 0)))
    return works


def _moved(work: Work, by: int) -> Work:
    """The work of contexts that are shorter by `by` in all."""
    return Work(_right(work.flops, by), _right(work.bytes, by))


def _right(curve: Curve, by: int) -> Curve:
    """curve(x - by), and its start before that."""
    xs = (0.0, *(x + by for x in curve.xs)) if by else curve.xs
    ys = (curve.ys[0], *curve.ys) if by else curve.ys
    return Curve(xs, ys, curve.slope, curve.measured)
