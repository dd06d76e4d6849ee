"""Where the next measurement helps most: in the cell whose measured points interpolation from their neighbours misses.

Every kind is a family of curves over one axis, the others fixed. A point inside a curve is left out and predicted from
its two neighbours; where that errs most, beyond the noise of the measurement, the wider of the two intervals around the
point is halved. Tables are looked up axis by axis, outer ones first, so a new place on an outer axis is measured at
every place of the inner ones where both of its neighbours were.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from .journal import Journal, Point
from .timer import Sample

# The axes along which a kind's curves run, and those that are outer to others.
_AXES = {
    "layer": ("tokens",), "sequence": ("sequences",), "decode_attention": ("batch", "context"),
    "prefill_attention": ("chunk", "context"),
}  # fmt: skip
_OUTER = ("batch", "chunk")
_LEAST_ERROR = 0.01  # below that a further point does not pay
_LEAST_STEP = 1.25  # neighbours that are nearer than this factor differ by noise

Measured = list[tuple[Point, Sample]]


def next_points(journal: Journal) -> tuple[list[Point], float] | None:
    """The points to measure next and the relative error that calls for them; None where nothing calls."""
    best: tuple[list[Point], float] | None = None
    for kind, axes in _AXES.items():
        measured = list(journal.samples(kind))
        for axis in axes:
            for curve in _curves(measured, axis):
                for middle, error in _candidates(curve, axis):
                    if error > _LEAST_ERROR and (best is None or error > best[1]):
                        points = [p for p in _at(measured, curve[0][0], axis, middle) if not journal.count(p)]
                        best = (points, error) if points else best
    return best


def _curves(measured: Measured, axis: str) -> Iterable[Measured]:
    curves: dict[tuple[object, ...], Measured] = {}
    for point, sample in measured:
        fixed = tuple((name, value) for name, value in point.keys.items() if name != axis)
        curves.setdefault(fixed, []).append((point, sample))
    for curve in curves.values():
        if len(curve) > 2:
            yield sorted(curve, key=lambda pair: pair[0].keys[axis])


def _candidates(curve: Measured, axis: str) -> Iterable[tuple[int, float]]:
    """Places on the axis, each with the error of the point beside it."""
    for (before, low), (here, sample), (after, high) in zip(curve, curve[1:], curve[2:], strict=False):
        x0, x, x1 = (point.keys[axis] for point in (before, here, after))
        predicted = low.seconds + (high.seconds - low.seconds) * (x - x0) / (x1 - x0)
        error = abs(predicted - sample.seconds) / sample.seconds - sample.spread
        left, right = (x0, x) if x - x0 > x1 - x else (x, x1)
        if right - left > 1 and right >= _LEAST_STEP * left:
            yield (left + right) // 2, error


def _at(measured: Measured, like: Point, axis: str, place: int) -> list[Point]:
    """The points at a place between two that were measured: one, or on an outer axis all that both neighbours have."""
    if axis not in _OUTER:
        return [Point(like.kind, {**like.keys, axis: place})]
    inner = ("context", "batch") if axis == "chunk" else ("context",)
    rows: dict[int, set[tuple[int, ...]]] = {}
    for point, _ in measured:
        if all(point.keys[name] == like.keys[name] for name in like.keys if name not in (axis, *inner)):
            rows.setdefault(point.keys[axis], set()).add(tuple(point.keys[name] for name in inner))
    around = next((pair for pair in pairwise(sorted(rows)) if pair[0] < place < pair[1]), None)
    if around is None:  # there is a row already, which lacks what this curve is made of
        return []
    cells = sorted(rows[around[0]] & rows[around[1]])
    return [Point(like.kind, {**like.keys, axis: place, **dict(zip(inner, cell, strict=True))}) for cell in cells]
