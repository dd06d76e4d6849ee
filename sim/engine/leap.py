"""The arithmetic of a leap: k iterations whose durations grow by a constant, as one step in whole ticks."""

from __future__ import annotations

from math import isqrt


def span(base: int, slope: int, k: int) -> int:
    """Ticks of k iterations of base, base + slope, base + 2 slope, ..."""
    return k * base + slope * (k * (k - 1) // 2)


def first_boundary(base: int, slope: int, elapsed: int, after: bool = False) -> int:
    """The least k >= 1 with span(k) >= elapsed (> elapsed if `after`); `elapsed` ticks have passed since the start.

    Solved, not stepped: span is a quadratic in k; the integer root is off by at most one.
    """
    if after:
        elapsed += 1
    if slope == 0:
        return max(1, -(-elapsed // base))
    b = 2 * base - slope
    k = max(1, (isqrt(b * b + 8 * slope * elapsed) - b) // (2 * slope)) if slope > 0 else 1
    while span(base, slope, k) < elapsed:
        k += 1
    while k > 1 and span(base, slope, k - 1) >= elapsed:
        k -= 1
    return k
