"""Confidence intervals of headline figures over runs that differ only in their seed."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

import numpy as np


def intervals(reports: Sequence[dict[str, Any]], level: float = 0.95) -> dict[str, dict[str, float]]:
    """For every numeric headline figure: mean over the reports and the half-width of its Student-t interval.

    Assumes independent runs; with fewer than about five of them the interval is wide, and rightly so.
    """
    from scipy.special import stdtrit

    n = len(reports)
    factor = float(stdtrit(n - 1, 0.5 + level / 2)) / sqrt(n)
    result = {}
    for key, value in reports[0].items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        values = [report[key] for report in reports]
        if all(isinstance(v, int | float) for v in values):
            spread = float(np.std(values, ddof=1))
            result[key] = {"mean": float(np.mean(values)), "half_width": factor * spread}
    return result
