"""Piecewise-linear functions of a number of tokens, in seconds and, piece by piece, in whole ticks."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from math import ceil, floor, inf, log2
from typing import NamedTuple

from .base import FOREVER, TICKS_PER_SECOND


class Curve(NamedTuple):
    """y over x >= 0: straight lines between the knots, and beyond the last one with `slope`.

    xs : knots, rising, the first 0. ys : value at each knot. slope : beyond the last knot.
    measured : look-ups beyond this x are extrapolated (inf for a formula).
    """

    xs: tuple[float, ...]
    ys: tuple[float, ...]
    slope: float
    measured: float = inf

    @classmethod
    def line(cls, start: float, slope: float) -> Curve:
        """The straight line from (0, start)."""
        return cls((0.0,), (start,), slope)

    @classmethod
    def through(cls, xs: Sequence[float], ys: Sequence[float]) -> Curve:
        """Measured points, xs rising: flat before the first one; after the last one as steep as between the last two,
        but never falling (the noise of two measurements must not grow without bound)."""
        slope = max(0.0, (ys[-1] - ys[-2]) / (xs[-1] - xs[-2])) if len(xs) > 1 else 0.0
        if xs[0] > 0:
            xs, ys = (0.0, *xs), (ys[0], *ys)
        return cls(tuple(xs), tuple(ys), slope, xs[-1])

    def at(self, x: float) -> float:
        i = bisect_right(self.xs, x) - 1
        return self.ys[i] + self.slope_from(i) * (x - self.xs[i])

    def slope_from(self, i: int) -> float:
        """The slope to the right of knot i."""
        if i + 1 == len(self.xs):
            return self.slope
        return (self.ys[i + 1] - self.ys[i]) / (self.xs[i + 1] - self.xs[i])

    def times(self, factor: float) -> Curve:
        return Curve(self.xs, tuple(factor * y for y in self.ys), factor * self.slope, self.measured)

    def stretched(self, factor: float) -> Curve:
        """The curve over `factor` times its x: `stretched(f).at(f * x) == at(x)`."""
        xs = tuple(factor * x for x in self.xs)
        return Curve(xs, self.ys, self.slope / factor, factor * self.measured)


def total(curves: Iterable[Curve]) -> Curve:
    """The sum of curves; zero where there are none."""
    terms = list(curves)
    if len(terms) == 1:
        return terms[0]
    if all(len(term.xs) == 1 for term in terms):  # a formula's usual case; built for every length of a prompt
        start, slope = sum([term.ys[0] for term in terms]), sum([term.slope for term in terms])
        return Curve((0.0,), (start,), slope, min([term.measured for term in terms], default=inf))
    xs = tuple(sorted({0.0}.union(*(term.xs for term in terms))))
    ys = tuple(sum(term.at(x) for term in terms) for x in xs)
    return Curve(xs, ys, sum(term.slope for term in terms), min((term.measured for term in terms), default=inf))


def greater(a: Curve, b: Curve) -> Curve:
    """The greater of two curves at every x."""
    if len(a.xs) == len(b.xs) == 1 and (b.ys[0] - a.ys[0]) * (b.slope - a.slope) >= 0:  # lines that do not cross
        above = max(a, b, key=lambda line: (line.ys[0], line.slope))
        return above._replace(measured=min(a.measured, b.measured))
    knots = sorted({*a.xs, *b.xs})
    xs = list(knots)
    for left, right in zip(knots, [*knots[1:], inf], strict=True):
        gap, turn = a.at(left) - b.at(left), _slope(b, left) - _slope(a, left)
        if gap * turn > 0 and left < left + gap / turn < right:
            xs.append(left + gap / turn)  # where the lines cross
    xs.sort()
    steeper = max(a.slope, b.slope)  # beyond the last crossing the steeper line is on top
    return Curve(tuple(xs), tuple(max(a.at(x), b.at(x)) for x in xs), steeper, min(a.measured, b.measured))


def lesser(a: Curve, b: Curve) -> Curve:
    """The lesser of two curves at every x, up to the last crossing."""
    return greater(a.times(-1), b.times(-1)).times(-1)


def _slope(curve: Curve, x: float) -> float:
    return curve.slope_from(bisect_right(curve.xs, x) - 1)


class Segment(NamedTuple):
    """Whole ticks for start <= x < end: `offset + rate * x`; whether they rest on a measurement or a formula."""

    start: int
    end: int
    offset: int
    rate: int
    measured: bool


_EXACT = 10  # whole ticks a token may leave out 2**-10 of the curve
_FINEST = 64  # tokens: no cell is narrower, at most 64 ticks (1 ns) off
_WIDEST = 1 << 30  # tokens: small enough for fast whole-number division where cells are used


def segment(curve: Curve, x: int) -> Segment:
    """The straight piece around `x`, with `curve` (seconds) rounded to whole ticks.

    A piece ends at the curve's next knot, and where the curve stops being measured. Its rate is rounded down, so it
    falls behind by less than a tick a token: nothing to speak of against a rate of thousands, but where that is more
    than 0.1 % of the rate, octaves of x are cut into cells so narrow that a cell stays within 0.1 % of a curve that
    rises as steeply from 0. Every cell starts on the rounded curve, so a rising curve never falls from one to the next.
    Cells depend on the curve alone: every x of a cell gives the same segment.
    """
    i = bisect_right(curve.xs, x) - 1
    start, end = ceil(curve.xs[i]), ceil(curve.xs[i + 1]) if i + 1 < len(curve.xs) else FOREVER
    slope = curve.slope_from(i) * TICKS_PER_SECOND
    loss = (slope - floor(slope)) / abs(slope) if slope else 0.0
    low, width = 0, _WIDEST
    if loss * 2**_EXACT > 1:
        low = 1 << x.bit_length() - 1 if x >= _FINEST else 0
        width = max(_FINEST, low >> ceil(log2(loss)) + _EXACT)
    low += (x - low) // width * width
    start, end = max(start, low), min(end, low + width)
    if curve.measured < inf:
        beyond = floor(curve.measured) + 1
        start, end = (start, min(end, beyond)) if x < beyond else (max(start, beyond), end)
    value = _ticks(curve, start)
    rate = (_ticks(curve, end) - value) // (end - start)
    return Segment(start, end, value - rate * start, rate, x <= curve.measured)


def _ticks(curve: Curve, x: int) -> int:
    return round(curve.at(x) * TICKS_PER_SECOND)
