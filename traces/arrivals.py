"""Arrival times: a renewal process whose clock runs at a rate that changes in steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .columns import Floats
from .streams import Stream


@dataclass(frozen=True)
class StepRate:
    """Requests/s, constant between consecutive `edges` (seconds, one more than `rates`)."""

    edges: Floats
    rates: Floats

    def expected(self) -> Floats:
        """The expected number of requests up to each edge."""
        return np.concatenate([[0.0], np.cumsum(self.rates * np.diff(self.edges))])


def renewal(stream: Stream, rate: StepRate, shape: float, wait: float | None = None) -> tuple[Floats, float]:
    """Arrival times from the first to the last edge of `rate`, and the wait that is left for the next piece.

    Gaps are i.i.d. Gamma(shape) with mean 1 on a clock that runs at the rate: locally a Gamma renewal process with
    CV 1 / sqrt(shape); shape 1 is Poisson, inf is constant gaps. It is one process over the whole trace, not fresh
    draws a second, so that its burstiness does not depend on the size of the steps.

    wait : units of that clock from the first edge to the first arrival; None draws a gap.
    """
    upto = rate.expected()
    total = float(upto[-1])
    points = np.zeros(0)
    last = 0.0 if wait is None else wait
    pieces = [] if wait is None else [np.array([wait])]
    while last <= total:
        left = total - last
        count = int(left + 6.0 * math.sqrt(left / min(shape, 1.0))) + 16
        piece = last + np.cumsum(_gaps(stream, count, shape))
        pieces.append(piece)
        last = float(piece[-1])
    points = np.concatenate(pieces)
    inside = int(np.searchsorted(points, total))
    return np.interp(points[:inside], upto, rate.edges), float(points[inside]) - total


def _gaps(stream: Stream, count: int, shape: float) -> Floats:
    if math.isinf(shape):
        return np.ones(count)
    if shape == 1.0:
        return stream.exponential(count)
    return stream.gamma(count, shape) / shape
