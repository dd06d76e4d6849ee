"""Where the next measurement helps most: in the cell whose measured points interpolation from their neighbours misses.

Every kind is a family of curves over one axis, the others fixed. A point inside a curve is left out and predicted from
its two neighbours; where that errs most, beyond the noise of the measurement, the wider of the two intervals around the
point is halved.
"""

from __future__ import annotations

from collections.abc import Iterable

from .journal import Journal, Point
from .timer import Sample

# The axes along which a kind's curves run.
_AXES = {
    "layer": ("tokens",), "sequence": ("sequences",), "decode_attention": ("context", "batch"),
    "prefill_attention": ("chunk", "context"),
}  # fmt: skip
_LEAST_ERROR = 0.01  # below that a further point does not pay


def next_point(journal: Journal) -> tuple[Point, float] | None:
    """The point to measure next and the relative error that calls for it; None where nothing calls."""
    best: tuple[Point, float] | None = None
    for kind, axes in _AXES.items():
        measured = list(journal.samples(kind))
        for axis in axes:
            for curve in _curves(measured, axis):
                for point, error in _candidates(curve, axis):
                    if not journal.count(point) and (best is None or error > best[1]):
                        best = point, error
    return best if best and best[1] > _LEAST_ERROR else None


def _curves(measured: Iterable[tuple[Point, Sample]], axis: str) -> Iterable[list[tuple[Point, Sample]]]:
    curves: dict[tuple[object, ...], list[tuple[Point, Sample]]] = {}
    for point, sample in measured:
        fixed = tuple((name, value) for name, value in point.keys.items() if name != axis)
        curves.setdefault(fixed, []).append((point, sample))
    for curve in curves.values():
        if len(curve) > 2:
            yield sorted(curve, key=lambda pair: pair[0].keys[axis])


def _candidates(curve: list[tuple[Point, Sample]], axis: str) -> Iterable[tuple[Point, float]]:
    for before, here, after in zip(curve, curve[1:], curve[2:], strict=False):
        x0, x, x1 = (pair[0].keys[axis] for pair in (before, here, after))
        y0, y, y1 = (pair[1].seconds for pair in (before, here, after))
        error = abs(y0 + (y1 - y0) * (x - x0) / (x1 - x0) - y) / y - max(here[1].spread, 0.0)
        low, high = (x0, x) if x - x0 > x1 - x else (x, x1)
        if high - low > 1:
            yield Point(here[0].kind, {**here[0].keys, axis: (low + high) // 2}), error
