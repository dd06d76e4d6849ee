"""Curves and their whole-tick segments."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servecast.costmodels.base import TICKS_PER_SECOND
from servecast.costmodels.curve import Curve, greater, segment, total

# Rising curves as attention has them: up to four knots, slopes from nothing to a microsecond a token.
slopes = st.floats(0, 1e-6)


@st.composite
def curves(draw: st.DrawFn) -> Curve:
    steps = draw(st.lists(st.tuples(st.floats(1, 1e5), slopes), max_size=3))
    xs, ys = [0.0], [draw(st.floats(0, 1e-3))]
    for width, slope in steps:
        ys.append(ys[-1] + slope * width)
        xs.append(xs[-1] + width)
    return Curve(tuple(xs), tuple(ys), draw(slopes))


def test_values_between_at_and_beyond_knots() -> None:
    curve = Curve((0, 10, 20), (1, 2, 4), 1)
    assert [curve.at(x) for x in (0, 5, 10, 15, 20, 30)] == [1, 1.5, 2, 3, 4, 14]
    assert curve.times(2).at(30) == 28


@given(curves(), curves(), st.floats(0, 1e6))
def test_sum_and_maximum(a: Curve, b: Curve, x: float) -> None:
    assert total([a, b]).at(x) == pytest.approx(a.at(x) + b.at(x))
    assert greater(a, b).at(x) == pytest.approx(max(a.at(x), b.at(x)))


def test_maximum_of_crossing_lines() -> None:
    roof = greater(Curve.line(0, 2), Curve.line(6, 1))
    assert roof.xs == (0, 6) and [roof.at(x) for x in (0, 3, 6, 9)] == [6, 9, 12, 18]


def test_the_narrower_measured_range_counts() -> None:
    short, long = Curve((0, 8), (1, 1), 0, measured=8), Curve((0, 9), (1, 1), 0, measured=9)
    assert total([short, long]).measured == greater(short, long).measured == 8


@given(curves(), st.integers(0, 1 << 21))
def test_a_segment_is_the_same_from_all_its_points(curve: Curve, x: int) -> None:
    here = segment(curve, x)
    assert here.start <= x < here.end
    for other in {here.start, (here.start + min(here.end, 1 << 21)) // 2, min(here.end, 1 << 30) - 1}:
        if here.start <= other < here.end:
            assert segment(curve, other) == here


@given(curves(), st.integers(0, 1 << 21))
def test_segments_follow_the_curve(curve: Curve, x: int) -> None:
    """Within 0.1 % and a grain of 64 ticks below, above only by rounding and where a knot falls between tokens."""
    here = segment(curve, x)
    exact = curve.at(x) * TICKS_PER_SECOND
    grain = 66 + max(curve.slope_from(i) for i in range(len(curve.xs))) * TICKS_PER_SECOND
    assert exact * (1 - 2**-10) - grain <= here.offset + here.rate * x <= exact + grain


@given(curves(), st.integers(0, 1 << 20))
def test_rising_curves_never_fall(curve: Curve, x: int) -> None:
    here, there = segment(curve, x), segment(curve, x + 1)
    assert here.rate >= 0
    assert there.offset + there.rate * (x + 1) >= here.offset + here.rate * x
