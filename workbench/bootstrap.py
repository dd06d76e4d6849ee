"""How much a difference depends on which requests came: a bootstrap over batches of consecutive arrivals.

Requests that wait in one queue are not independent, so single ones may not be resampled. Thirty batches of consecutive
arrivals hardly are dependent (the method of batch means; Schmeiser 1982, "Batch size effects in the analysis of
simulation output"); both runs draw the same batches, so that what they have in common cancels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..traces.columns import Floats
from ..traces.streams import Stream

BATCHES = 30
RESAMPLES = 1000
_CELLS = 20_000  # of the ranks that quantiles are looked up in: an error of 0.005 % of the requests
_LEVEL = (2.5, 97.5)


class Resamples:
    """The draws for `requests` requests in order of arrival: how often each batch is in each resample."""

    def __init__(self, requests: int) -> None:
        self.batches = min(BATCHES, requests)
        self.of = np.arange(requests) * self.batches // max(1, requests)
        draws = Stream(0, "comparison").integers(RESAMPLES * self.batches, self.batches)
        rows = np.repeat(np.arange(RESAMPLES), self.batches)
        self.counts = np.zeros((RESAMPLES, self.batches), np.int64)
        np.add.at(self.counts, (rows, draws), 1)

    def means(self, values: Floats) -> Floats:
        """The mean in each resample."""
        sums = np.bincount(self.of, values, self.batches)
        sizes = np.bincount(self.of, minlength=self.batches)
        return np.asarray((self.counts @ sums) / (self.counts @ sizes))

    def quantiles(self, values: Floats, share: float) -> Floats:
        """The quantile in each resample: the least value with that share of the requests at or below it."""
        order = np.argsort(values, kind="stable")
        cells = min(_CELLS, len(values))
        cell = np.arange(len(values)) * cells // len(values)
        ends = order[np.searchsorted(cell, np.arange(cells), side="right") - 1]
        held = np.bincount(cell * self.batches + self.of[order], minlength=cells * self.batches)
        below = np.cumsum(held.reshape(cells, self.batches), axis=0)
        wanted = share * (self.counts @ below[-1])
        low, high = np.zeros(RESAMPLES, np.int64), np.full(RESAMPLES, cells - 1)
        while (low < high).any():
            middle = (low + high) // 2
            enough = np.einsum("rb,rb->r", below[middle], self.counts) >= wanted
            low, high = np.where(enough, low, middle + 1), np.where(enough, middle, high)
        return np.asarray(values[ends[low]])


def interval(differences: Floats | NDArray[np.float64]) -> tuple[float, float]:
    """95 %, by percentiles."""
    low, high = np.percentile(differences, _LEVEL)
    return float(low), float(high)


def paired_intervals(a: Floats, b: Floats, shares: Sequence[float]) -> list[tuple[float, float]]:
    """Intervals of the difference b - a: of the means, then of the quantiles at `shares`. The requests of both are the
    same, in order of arrival."""
    draws = Resamples(len(a))
    return [
        interval(draws.means(b) - draws.means(a)),
        *(interval(draws.quantiles(b, share) - draws.quantiles(a, share)) for share in shares),
    ]
