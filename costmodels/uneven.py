"""The correction for decodes whose contexts differ, as a profile measured it."""

from __future__ import annotations

from bisect import bisect_left
from math import inf, log2

from ..errors import InputError
from .base import FOREVER
from .table import Table

_AXES = ("decodes", "skew", "chunk_context", "longest")
_STEPS = 8  # an octave of the greatest context, so that a run of decodes seldom meets a new alpha


class Uneven:
    """How far the time of uneven decodes lies from that of decodes at their mean towards that of decodes at their
    greatest context: time = (1 - alpha) x at the mean + alpha x at the greatest.

    Buckets, each named by its upper edges: number of decodes, skew = (mean - least) / (greatest - least), context of
    the prompt parts beside them; for each measured number of prompt tokens, of which the nearest counts. The greatest
    context was measured at a few sizes a long way apart, the upper edges of its buckets; between them alpha is linear
    in its logarithm, in steps. Where no bucket was measured, `default`.

    Source of the form and of the buckets: casys-kaist/LLMServingSim, `skew_fit` of its profiles, which takes a bucket's
    alpha for all of it: 4,100 tokens then cost what 16,384 do.
    """

    def __init__(self, table: Table, default: float) -> None:
        self._default = default
        columns = {name: table.columns[name].tolist() for name in ("chunk", *_AXES)}
        self._chunks = sorted(set(columns["chunk"]))
        self._edges = [sorted(set(columns[name])) for name in _AXES[:3]]
        self._longest = sorted(set(columns["longest"]))
        self._alpha: dict[tuple[float, ...], float] = {}
        for *key, alpha in zip(*columns.values(), table.values.tolist(), strict=True):
            if tuple(key) in self._alpha:
                raise InputError(table.kind, f"two rows for the bucket {key}", "one row for each bucket")
            self._alpha[tuple(key)] = alpha

    def alpha(
        self, chunk: int, decodes: int, context_sum: int, context_min: int, context_max: int, chunk_context: float
    ) -> tuple[float, int]:
        """Alpha, and for how many iterations of the same decodes alone it holds (all contexts + 1 in each)."""
        if decodes < 2 or context_max == context_min:
            return 0.0, FOREVER
        # Whole numbers that do not change while all contexts grow by one.
        skew = (context_sum - decodes * context_min) / (decodes * (context_max - context_min))
        point = (decodes, skew, chunk_context)
        upper = [edges[min(bisect_left(edges, x), len(edges) - 1)] for edges, x in zip(self._edges, point, strict=True)]
        measured = [c for c in self._chunks if (c > 0) == (chunk > 0)]
        nearest = min(measured, key=lambda c: abs(c - chunk), default=inf)
        step = max(1, (1 << context_max.bit_length() - 1) // _STEPS)
        end = -(-context_max // step) * step
        return self._between((nearest, *upper), end), end - context_max + 1

    def _between(self, bucket: tuple[float, ...], longest: int) -> float:
        """Alpha of a bucket at a greatest context."""
        edges = self._longest
        i = bisect_left(edges, longest)
        near = [self._alpha.get((*bucket, edge), self._default) for edge in edges[max(0, i - 1) : i + 1]]
        if len(near) == 1 or i == len(edges):
            return near[-1] if i == len(edges) else near[0]
        weight = log2(longest / edges[i - 1]) / log2(edges[i] / edges[i - 1])
        return near[0] + weight * (near[1] - near[0])
