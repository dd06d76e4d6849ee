"""Piecewise-linear functions of a number of tokens: how operators say what attention costs at any context."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf


@dataclass(frozen=True)
class Curve:
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

    def at(self, x: float) -> float:
        i = bisect_right(self.xs, x) - 1
        return self.ys[i] + self.slopes()[i] * (x - self.xs[i])

    def slopes(self) -> list[float]:
        """The slope to the right of each knot."""
        xs, ys = self.xs, self.ys
        return [(ys[i + 1] - ys[i]) / (xs[i + 1] - xs[i]) for i in range(len(xs) - 1)] + [self.slope]

    def times(self, factor: float) -> Curve:
        return Curve(self.xs, tuple(factor * y for y in self.ys), factor * self.slope, self.measured)


def total(curves: Iterable[Curve]) -> Curve:
    """The sum of curves; zero where there are none."""
    terms = list(curves)
    if len(terms) == 1:
        return terms[0]
    xs = tuple(sorted({0.0}.union(*(term.xs for term in terms))))
    ys = tuple(sum(term.at(x) for term in terms) for x in xs)
    return Curve(xs, ys, sum(term.slope for term in terms), min((term.measured for term in terms), default=inf))


def greater(a: Curve, b: Curve) -> Curve:
    """The greater of two curves at every x."""
    xs = sorted({*a.xs, *b.xs})
    for left, right in zip(xs, [*xs[1:], inf], strict=True):
        gap, turn = a.at(left) - b.at(left), _slope(b, left) - _slope(a, left)
        if gap * turn > 0 and left < left + gap / turn < right:
            xs.append(left + gap / turn)  # where the lines cross
    xs.sort()
    last = xs[-1]
    slope = a.slope if (a.at(last), a.slope) >= (b.at(last), b.slope) else b.slope
    return Curve(tuple(xs), tuple(max(a.at(x), b.at(x)) for x in xs), slope, min(a.measured, b.measured))


def _slope(curve: Curve, x: float) -> float:
    return curve.slopes()[bisect_right(curve.xs, x) - 1]
