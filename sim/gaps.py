"""Inter-token gaps from the log of leaps: exact order statistics and moments without listing every token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .records import Recorder


class Gaps:
    """All gaps between consecutive tokens of a request, as weighted arithmetic progressions of ticks.

    Every leap contributes `decodes` x (gap of its first iteration) and `decodes` x (base + slope, base + 2 slope, ...)
    for the iterations after it; the recorder's odd gaps correct single tokens, with weights that may be negative.
    """

    def __init__(self, recorder: Recorder) -> None:
        first, weight, base, slope, more = [], [], [], [], []
        for table, odd in zip(recorder.leaps, recorder.odd_gaps, strict=True):
            c = table.columns()
            ran = c["decodes"] > 0
            first += [c["gap"][ran], odd.columns()["gap"]]
            weight += [c["decodes"][ran], odd.columns()["count"]]
            long = ran & (c["iterations"] > 1)
            base.append(np.stack([c[name][long] for name in ("base", "slope", "iterations", "decodes")]))
        self._gap = np.concatenate(first) if first else np.empty(0, np.int64)
        self._weight = np.concatenate(weight) if weight else np.empty(0, np.int64)
        progressions = np.concatenate(base, axis=1) if base else np.empty((4, 0), np.int64)
        self._slope = progressions[1]
        self._start = progressions[0] + self._slope
        self._terms = progressions[2] - 1
        self._each = progressions[3]
        self.count = int(self._weight.sum() + (self._terms * self._each).sum())

    def at_most(self, ticks: int) -> int:
        """How many gaps are no longer than `ticks`."""
        single = int(self._weight[self._gap <= ticks].sum())
        room = ticks - self._start
        flat = np.where(room >= 0, self._terms, 0)
        steps = np.where(self._slope > 0, room // np.maximum(self._slope, 1) + 1, flat)
        return single + int((np.clip(steps, 0, self._terms) * self._each).sum())

    def order_statistic(self, rank: int) -> int:
        """The gap at position `rank` (0-based) in ascending order, ticks: bisection on the value."""
        low, high = -1, int(max(self._gap.max(initial=0), (self._start + self._slope * self._terms).max(initial=0)))
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.at_most(middle) > rank else (middle, high)
        return high

    def percentiles(self, percents: Sequence[float]) -> list[float]:
        """Percentiles in ticks, linear between order statistics as numpy's default. NaN when there are no gaps."""
        values = []
        for percent in percents:
            place = percent / 100 * (self.count - 1)
            if self.count == 0:
                values.append(float("nan"))
                continue
            low = self.order_statistic(int(place))
            high = self.order_statistic(min(int(place) + 1, self.count - 1)) if place > int(place) else low
            values.append(low + (high - low) * (place - int(place)))
        return values

    def mean_and_std(self) -> tuple[float, float]:
        """Mean and population standard deviation, ticks; NaN when there are no gaps."""
        if self.count == 0:
            return float("nan"), float("nan")
        scale = float(2**20)  # keeps squares of ticks within what a float64 adds up well
        gap, weight = self._gap / scale, self._weight.astype(float)
        start, slope, n, each = self._start / scale, self._slope / scale, self._terms.astype(float), self._each
        sums = each * (n * start + slope * n * (n - 1) / 2)
        squares = each * (n * start**2 + start * slope * n * (n - 1) + slope**2 * (n - 1) * n * (2 * n - 1) / 6)
        mean = (float((gap * weight).sum()) + float(sums.sum())) / self.count
        square = (float((gap**2 * weight).sum()) + float(squares.sum())) / self.count
        return mean * scale, max(0.0, square - mean**2) ** 0.5 * scale


