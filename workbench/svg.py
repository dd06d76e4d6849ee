"""Small charts as SVG text: no library, no network, the same bytes for the same data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Okabe and Ito's palette: told apart by people with any kind of colour vision (https://jfly.uni-koeln.de/color/).
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_POINTS = 400  # of a line: more than the pixels of a chart show nothing
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 20, 24, 36  # margins, pixels
_HALO = ' paint-order="stroke" stroke="#fff" stroke-width="3"'  # keeps a name readable over lines
_STYLE = "font:11px system-ui,sans-serif"


@dataclass(frozen=True)
class Line:
    """A line of a chart. low, high : the bounds of a band around it."""

    name: str
    x: Floats
    y: Floats
    low: Floats | None = None
    high: Floats | None = None


def distribution(name: str, values: Any) -> Line:
    """The cumulative distribution of some values, at up to 400 of its quantiles."""
    found = np.asarray(values, float)
    found = np.sort(found[np.isfinite(found)])
    share = np.linspace(0, 1, min(len(found), _POINTS))
    return Line(name, np.quantile(found, share) if len(found) else found, share)


def chart(
    lines: Sequence[Line], title: str, x_label: str, *, log: bool = False, limits: Sequence[float] = (),
    width: int = 380, height: int = 210,
) -> str:  # fmt: skip
    """Lines over common axes. log : the x axis. limits : x positions of dashed vertical lines, such as an SLO's."""
    lines = [line for line in map(_thinned, lines) if len(line.x)]
    body = [f'<text x="{_LEFT}" y="14" font-weight="600">{escape(title)}</text>']
    if not lines:
        body.append(f'<text x="{width / 2:.0f}" y="{height / 2:.0f}" text-anchor="middle">nothing to show</text>')
        return _svg(body, width, height)
    across = _Axis(np.concatenate([*(line.x for line in lines), limits]), _LEFT, width - _RIGHT, log)
    ys = [part for line in lines for part in (line.y, line.low, line.high) if part is not None]
    up = _Axis(np.concatenate([*ys, [0.0]]), height - _BOTTOM, _TOP, False)
    body += _grid(across, up, width, height)
    body.append(f'<text x="{width - _RIGHT}" y="{height - 4}" text-anchor="end">{escape(x_label)}</text>')
    for limit in limits:
        x = across(limit)
        body.append(f'<path d="M{x:.1f} {_TOP}V{height - _BOTTOM}" stroke="#777" stroke-dasharray="4 3" fill="none"/>')
    for i, line in enumerate(lines):
        color = COLORS[i % len(COLORS)]
        if line.low is not None and line.high is not None:
            there, back = _points(across, up, line.x, line.high), _points(across, up, line.x[::-1], line.low[::-1])
            body.append(f'<path d="M{there}L{back}Z" fill="{color}" opacity="0.15"/>')
        path = _points(across, up, line.x, line.y)
        body.append(f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="1.5"/>')
    if len(lines) > 1:
        body += _legend([line.name for line in lines], width)
    return _svg(body, width, height)


def _thinned(line: Line) -> Line:
    if len(line.x) <= _POINTS:
        return line
    rows = np.unique(np.linspace(0, len(line.x) - 1, _POINTS).astype(int))
    low, high = (None if band is None else band[rows] for band in (line.low, line.high))
    return Line(line.name, line.x[rows], line.y[rows], low, high)


class _Axis:
    """From values to pixels, with the ticks between."""

    def __init__(self, values: Floats, start: float, end: float, log: bool) -> None:
        values = values[np.isfinite(values)]
        if log:
            values = np.maximum(values[values > 0], 1e-9)
        low, high = (float(values.min()), float(values.max())) if len(values) else (1.0, 10.0)
        if low == high:
            low, high = (low / 2, high * 2 or 1.0) if log else (min(low, 0.0), high or 1.0)
        self._scale: Callable[[float], float] = math.log10 if log else float
        self.low, self.high, self._start, self._end, self._log = low, high, start, end, log

    def __call__(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        low, high = self._scale(self.low), self._scale(self.high)
        return self._start + (self._end - self._start) * (self._scale(value) - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round values inside the axis, some five of them."""
        if self._log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if len(decades) <= 3 else (1,)
            return [t for d in decades for s in steps if self.low <= (t := s * 10.0**d) <= self.high]
        rough = (self.high - self.low) / 5
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * s for s in (1, 2, 5, 10) if unit * s >= rough)
        return [step * i for i in range(math.ceil(self.low / step), math.floor(self.high / step + 1e-9) + 1)]


def _points(across: _Axis, up: _Axis, x: Floats, y: Floats) -> str:
    return "L".join(f"{across(a):.1f} {up(b):.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True))


def _grid(across: _Axis, up: _Axis, width: int, height: int) -> list[str]:
    parts = []
    for tick in up.ticks():
        y = up(tick)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{width - _RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>')
    for tick in across.ticks():
        x = across(tick)
        parts.append(f'<path d="M{x:.1f} {_TOP}V{height - _BOTTOM}" stroke="#eee"/>')
        parts.append(f'<text x="{x:.1f}" y="{height - _BOTTOM + 14}" text-anchor="middle">{number(tick)}</text>')
    return parts


def _legend(names: Sequence[str], width: int) -> list[str]:
    parts = []
    for i, name in enumerate(names):
        y = _TOP + 14 + 14 * i
        color = COLORS[i % len(COLORS)]
        label = escape(name if len(name) <= 28 else name[:27] + "…")
        parts.append(f'<text x="{width - _RIGHT - 6}" y="{y}" text-anchor="end" fill="{color}"{_HALO}>{label}</text>')
    return parts


def _svg(body: Sequence[str], width: int, height: int) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f'{head} style="{_STYLE};background:#fff">' + "".join(body) + "</svg>"


def number(value: float | None) -> str:
    """A figure in four digits, `-` for none."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
