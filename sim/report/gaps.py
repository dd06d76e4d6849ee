"""Inter-token gaps from the log of leaps: exact order statistics and moments without listing every token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..records import Recorder

Ints = NDArray[np.int64]


class _Series(NamedTuple):
    """Arithmetic progressions of gaps: `terms` values from `first` on, `slope` apart, each `weight` times."""

    first: Ints
    slope: Ints
    terms: Ints
    weight: Ints

    def at_most(self, ticks: int) -> int:
        """How many gaps are no longer than `ticks`."""
        room = ticks - self.first
        steps = np.where(self.slope > 0, room // np.maximum(self.slope, 1) + 1, self.terms)
        return int((np.where(room >= 0, np.minimum(steps, self.terms), 0) * self.weight).sum())

    def last(self) -> Ints:
        """The greatest value of each."""
        return self.first + self.slope * (self.terms - 1)

    def between(self, low: int, high: int) -> _Series:
        """Those that may have a value above `low` and up to `high`."""
        keep = (self.first <= high) & (self.last() > low)
        return _Series(*(column[keep] for column in self))


# Values at which a first pass counts, to find the neighbourhood of an order statistic: 256 an octave.
_MARKS = np.unique(np.round(2.0 ** (np.arange(62 * 256) / 256)).astype(np.int64))


class Gaps:
    """All gaps between consecutive tokens of a request, in ticks.

    A leap contributes `decodes` times the gap of its first iteration, and `decodes` times base + slope,
    base + 2 slope, ... for those after it; the recorder's odd gaps correct single tokens, with weights that may be
    negative. Nothing is expanded: a year's log takes a few passes.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self.count = 0
        self._sum = 0  # exact
        self._squares = 0.0  # s**2
        by_first, by_last = np.zeros(len(_MARKS) + 1), np.zeros(len(_MARKS) + 1)
        for series in self._series():
            n, weight = series.terms, series.weight
            values = n * weight
            self.count += int(values.sum())
            np.add.at(by_first, np.searchsorted(_MARKS, series.first), values)
            np.add.at(by_last, np.searchsorted(_MARKS, series.last()), values)
            total = n * series.first + series.slope * (n * (n - 1) // 2)
            self._sum += (int((total >> 20) @ weight) << 20) + int((total & 0xFFFFF) @ weight)
            first, slope, m = series.first / 2.0**36, series.slope / 2.0**36, n.astype(float)
            squares = m * first**2 + first * slope * m * (m - 1) + slope**2 * (m - 1) * m * (2 * m - 1) / 6
            self._squares += float(squares @ weight)
        # What may be, and what must be, at or below each mark.
        self._possible, self._certain = np.cumsum(by_first), np.cumsum(by_last)

    def _series(self) -> Iterator[_Series]:
        for table in self._recorder.leaps:
            for c in table.slices():
                ran = c["decodes"] > 0
                ones = np.ones(int(ran.sum()), np.int64)
                yield _Series(c["gap"][ran], 0 * ones, ones, c["decodes"][ran])
                long = ran & (c["iterations"] > 1)
                slope = c["slope"][long]
                yield _Series(c["base"][long] + slope, slope, c["iterations"][long] - 1, c["decodes"][long])
        for table in self._recorder.odd_gaps:
            for c in table.slices():
                ones = np.ones(len(c["gap"]), np.int64)
                yield _Series(c["gap"], 0 * ones, ones, c["count"])

    def order_statistic(self, rank: int) -> int:
        """The gap at this position (0-based) in ascending order, ticks: bisection on the value."""
        # `possible` may dip where a negative weight comes before what it corrects: look at the worst up to each mark.
        low_mark = int(np.searchsorted(np.maximum.accumulate(self._possible), rank, side="right")) - 1
        certain = np.minimum.accumulate(self._certain[::-1])[::-1]
        high_mark = int(np.searchsorted(certain, rank, side="right"))
        low = int(_MARKS[low_mark]) if low_mark >= 0 else -1
        high = int(_MARKS[min(high_mark, len(_MARKS) - 1)])
        parts, below = [], 0
        for series in self._series():
            below += series.at_most(low)
            near = series.between(low, high)
            if len(near.first):
                parts.append(near)
        near = _Series(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
        below -= near.at_most(low)  # of those that straddle `low`; they are counted anew
        while high - low > 1:
            middle = (low + high) // 2
            if below + near.at_most(middle) > rank:
                high = middle
            else:
                low = middle
            inside = near.between(low, high)
            if len(inside.first) < len(near.first) // 2:
                below += near.at_most(low) - inside.at_most(low)
                near = inside
        return high

    def percentiles(self, percents: Sequence[float]) -> list[float]:
        """Percentiles in ticks, linear between order statistics as numpy's default. NaN when there are no gaps."""
        if self.count == 0:
            return [float("nan")] * len(percents)
        places = [percent / 100 * (self.count - 1) for percent in percents]
        ranks = {min(int(place) + i, self.count - 1) for place in places for i in (0, 1)}
        value = {rank: self.order_statistic(rank) for rank in sorted(ranks)}
        result = []
        for place in places:
            low, high = value[int(place)], value[min(int(place) + 1, self.count - 1)]
            result.append(low + (high - low) * (place - int(place)))
        return result

    def mean_and_std(self) -> tuple[float, float]:
        """Mean and population standard deviation, ticks; NaN when there are no gaps."""
        if self.count == 0:
            return float("nan"), float("nan")
        mean = self._sum / self.count
        square = self._squares / self.count * 2.0**72
        return mean, max(0.0, square - mean**2) ** 0.5
