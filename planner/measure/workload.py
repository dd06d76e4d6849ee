"""A trace as the planner's programs see it: buckets of prompt lengths, and samples of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...traces.chunks import Chunks
from ...traces.streams import Stream
from ...traces.table import RequestTable
from .prefixes import Prefixes

_QUANTILES = (0.5, 0.9)  # of prompt lengths, between the buckets
_SAMPLED = (200, 800)  # requests of a capacity sample: a fifth of the trace within these


@dataclass(frozen=True)
class Workload:
    """bounds : longest prompt of each bucket but the last. bucket : of every request. shares : by bucket.

    prefixes : what prefix caches spare; None where there are none, or nothing to find.
    """

    table: RequestTable
    bounds: tuple[int, ...]
    bucket: NDArray[np.int64]
    shares: tuple[float, ...]
    prefixes: Prefixes | None = None

    @classmethod
    def of(cls, table: RequestTable, buckets: bool = True) -> Workload:
        """Cut at the median and the 90th percentile of prompt lengths, or not at all.

        Raises `InputError` for requests that all arrive at once: they have no rate.
        """
        if table.arrival[0] == table.arrival[-1]:
            raise InputError("arrival", f"all {len(table)} requests arrive at once", "requests that come over time")
        cuts = np.quantile(table.prompt_tokens, _QUANTILES).astype(int).tolist() if buckets else []
        bounds = tuple(sorted({cut for cut in cuts if cut < int(table.prompt_tokens.max())}))
        bucket = np.searchsorted(bounds, table.prompt_tokens)
        counts = np.bincount(bucket, minlength=len(bounds) + 1)
        return cls(table, bounds, bucket, tuple((counts / len(table)).tolist()))

    @property
    def span(self) -> float:
        """Seconds from the first to the last arrival."""
        return float(self.table.arrival[-1] - self.table.arrival[0])

    @property
    def computed(self) -> NDArray[np.int64]:
        """Prompt tokens of each request that must be computed, with all others found."""
        return self.table.prompt_tokens - (self.prefixes.spared if self.prefixes else 0)

    def whole(self) -> Workload:
        """The same without buckets."""
        return replace(Workload.of(self.table, buckets=False), prefixes=self.prefixes)

    @cached_property
    def own_context(self) -> list[float]:
        """By bucket, the share of what answers read that their request brought in itself; all but prefixes found."""
        output = self.table.output_tokens
        read = np.bincount(self.bucket, output * (self.table.prompt_tokens + output / 2), len(self.shares))
        own = np.bincount(self.bucket, output * (self.computed + output / 2), len(self.shares))
        shares: list[float] = (own / np.maximum(read, 1e-9)).tolist()
        return shares

    @cached_property
    def mean_computed(self) -> list[float]:
        """The same on average, by bucket."""
        sums = np.bincount(self.bucket, self.computed, len(self.shares))
        means: list[float] = (sums / np.maximum(np.bincount(self.bucket, minlength=len(self.shares)), 1)).tolist()
        return means

    @property
    def rate(self) -> float:
        """Requests/s on average."""
        return len(self.table) / self.span if self.span else float("inf")

    @cached_property
    def _apart(self) -> RequestTable:
        """The requests without their arrivals (all 0) and programs, each by itself: the prefix that it finds is a chunk
        of its own."""
        if self.prefixes is None:
            return replace(self.table, arrival=np.zeros(len(self.table)), programs=None)
        found = Chunks.of([[(row, tokens, 0)] for row, tokens in enumerate(self.prefixes.spared.tolist())], ("prefix",))
        return replace(self.table, arrival=np.zeros(len(self.table)), programs=None, blocks=None, chunks=found)

    def sample(self, seed: int, buckets: Sequence[int] | None = None) -> RequestTable:
        """Requests from the trace, or from some buckets, in random order, each by itself.

        Every so many-th by size, so that the sample weighs what the trace weighs.
        """
        requests = min(max(len(self.table) // 5, _SAMPLED[0]), _SAMPLED[1])
        whole = buckets is None or len(buckets) == len(self.shares)
        rows = np.arange(len(self.table)) if whole else np.flatnonzero(np.isin(self.bucket, buckets or ()))
        size = (self.table.prompt_tokens + self.table.output_tokens)[rows]
        places = ((np.arange(requests) + 0.5) / requests * len(rows)).astype(int)
        drawn = rows[np.argsort(size, kind="stable")][places]
        order = np.argsort(Stream(seed, f"capacity sample {'' if whole else buckets}").uniform(requests), kind="stable")
        return self._apart.take(drawn[order])

    def spread(self, bucket: int, requests: int) -> RequestTable:
        """Requests of a bucket at even quantiles of prompt length, the longest included, each by itself."""
        rows = np.flatnonzero(self.bucket == bucket)
        ordered = rows[np.argsort(self.table.prompt_tokens[rows], kind="stable")]
        places = np.linspace(0, len(ordered) - 1, min(requests, len(ordered))).round().astype(int)
        return self._apart.take(ordered[places])


def evenly(table: RequestTable, rate: float) -> RequestTable:
    """The same requests at equal distances: `rate` requests/s without any burst."""
    return replace(table, arrival=np.arange(len(table)) / rate)


def thinned(table: RequestTable, share: float, seed: int) -> RequestTable:
    """A share of the requests, by whole sessions where there are any; what a smaller share keeps, a larger one does."""
    if table.session is None:
        return table.take(Stream(seed, "thinning").uniform(len(table)) < share)
    kept = Stream(seed, "thinning").uniform(len(table.session.names)) < share
    own = Stream(seed, "thinning of the rest").uniform(len(table)) < share  # of requests without a session
    return table.take(np.where(table.session.codes >= 0, kept[table.session.codes], own))
