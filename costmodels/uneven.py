"""The correction for decodes whose contexts differ, as a profile measured it."""

from __future__ import annotations

from bisect import bisect_left
from math import inf

from ..errors import InputError
from .base import FOREVER
from .table import Table

_AXES = ("decodes", "skew", "longest", "chunk_context")


class Uneven:
    """How far the time of uneven decodes lies from that of decodes at their mean towards that of decodes at their
    greatest context: time = (1 - alpha) x at the mean + alpha x at the greatest.

    Buckets, each named by its upper edges: number of decodes, skew = (mean - least) / (greatest - least), greatest
    context, context of the prompt parts beside them; for each measured number of prompt tokens, of which the nearest
    counts. Where no bucket was measured, `default`.

    Source of the form and of the buckets: casys-kaist/LLMServingSim, `skew_fit` of its profiles.
    """

    def __init__(self, table: Table, default: float) -> None:
        self._default = default
        columns = {name: table.columns[name].tolist() for name in ("chunk", *_AXES)}
        self._chunks = sorted(set(columns["chunk"]))
        self._edges = [sorted(set(columns[name])) for name in _AXES]
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
        point = (decodes, skew, context_max, chunk_context)
        upper = [edges[min(bisect_left(edges, x), len(edges) - 1)] for edges, x in zip(self._edges, point, strict=True)]
        measured = [c for c in self._chunks if (c > 0) == (chunk > 0)]
        nearest = min(measured, key=lambda c: abs(c - chunk), default=inf)
        bound = upper[2]
        holds = int(bound) - context_max + 1 if context_max <= bound < self._edges[2][-1] else FOREVER
        return self._alpha.get((nearest, *upper), self._default), holds
