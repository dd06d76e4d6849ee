"""Piecewise-linear interpolation in measured points over several keys, whose rows need not fill a box.

Linear on every axis: measured kernels are sums of parts that are linear in each key, and interpolating their logarithm
is biased upwards (LLMServingSim found +12 % against +3 % on its profiles; `costmodel check` reports ours).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from .curve import Curve, total

Array = np.ndarray[Any, np.dtype[Any]]


class Grid:
    """Values over nested keys: each point of the first key holds the grid of the others, with an axis of its own.

    xs : the first key's points, rising. below : what each holds; the innermost grids are curves.
    """

    __slots__ = ("below", "xs")

    def __init__(self, xs: list[float], below: list[Grid | Curve]) -> None:
        self.xs, self.below = xs, below

    def at(self, *point: float) -> tuple[float, bool]:
        """The value at a point, and whether it lies within what was measured: below an axis the first point counts,
        beyond it the last two are continued."""
        first, *others = point
        i, weight, inside = self._place(first)
        value, measured = _value(self.below[i], others)
        if weight:
            upper, also = _value(self.below[i + 1], others)
            value, measured = value + weight * (upper - value), measured and also
        return value, measured and inside

    def curve(self, *point: float) -> Curve:
        """The curve over the last key, where the ones before it are `point`."""
        first, *others = point
        i, weight, inside = self._place(first)
        lower = _curve(self.below[i], others)
        if weight:
            lower = total([lower.times(1 - weight), _curve(self.below[i + 1], others).times(weight)])
        return lower if inside else Curve(lower.xs, lower.ys, lower.slope, -1.0)

    def _place(self, x: float) -> tuple[int, float, bool]:
        """Index of the point below x, weight of the next one, and whether x is on the axis."""
        xs = self.xs
        i = bisect_right(xs, x) - 1
        if i < 0 or len(xs) == 1:
            return 0, 0.0, x == xs[0]
        if i == len(xs) - 1 and x > xs[i]:
            return i - 1, (x - xs[i - 1]) / (xs[i] - xs[i - 1]), False
        return i, (x - xs[i]) / (xs[i + 1] - xs[i]) if x > xs[i] else 0.0, True


def _value(node: Grid | Curve, point: Sequence[float]) -> tuple[float, bool]:
    if isinstance(node, Grid):
        return node.at(*point)
    return node.at(point[0]), point[0] <= node.measured


def _curve(node: Grid | Curve, point: Sequence[float]) -> Curve:
    return node.curve(*point) if isinstance(node, Grid) else node


def grid(keys: Sequence[Array], values: Array, names: Sequence[str]) -> Grid | Curve:
    """The grid of rows (keys, value), outermost key first; a curve where there is one key.

    Raises InputError where two rows have the same keys.
    """
    order = np.lexsort(tuple(reversed(keys)))
    return _nest([key[order] for key in keys], values[order], names)


def _nest(keys: Sequence[Array], values: Array, names: Sequence[str]) -> Grid | Curve:
    first, *others = keys
    starts = np.flatnonzero(np.diff(first, prepend=first[0] - 1))
    if not others:
        if len(starts) < len(first):
            twice = first[np.flatnonzero(np.diff(first) == 0)[0]]
            raise InputError(names[0], f"two rows with the same keys ({names[0]} = {twice:g})", "one row for each key")
        return Curve.through(first.tolist(), values.tolist())
    ends = [*starts[1:].tolist(), len(first)]
    below = [
        _nest([key[start:end] for key in others], values[start:end], names[1:])
        for start, end in zip(starts.tolist(), ends, strict=True)
    ]
    return Grid(first[starts].tolist(), below)
