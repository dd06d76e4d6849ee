"""The requests of a window as bars: waiting, prefill, decode; a band a replica."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from .excerpt import Window, slots
from .svg import number

if TYPE_CHECKING:
    from pandas import DataFrame

PHASES = (  # name, from, to, colour
    ("waiting", "arrival_s", "scheduled_s", "#c8c8c8"),
    ("prefill", "scheduled_s", "first_token_s", "#d55e00"),
    ("decode", "first_token_s", "last_token_s", "#56b4e9"),
)
_WIDTH, _ROW, _GAP, _LEFT = 1100, 5, 18, 70
MOST = 400  # bars: more than that many rows cannot be told apart


def timeline(rows: DataFrame, window: Window) -> str:
    """SVG of the first 400 requests of `rows`, in order of arrival."""
    rows = rows.sort_values("arrival_s", kind="stable").iloc[:MOST]
    body, y = [], 30.0
    for replica, mine in rows.groupby("replica", sort=True):
        lanes = slots(mine["arrival_s"], mine["ended_s"])
        label = f"replica {replica}" if int(str(replica)) >= 0 else "nowhere"
        body.append(f'<text x="4" y="{y + 9:.0f}">{label}</text>')
        for row, lane in zip(mine.to_dict("records"), lanes, strict=True):
            body.append(_bars(row, y + lane * _ROW, window))
        y += (max(lanes) + 1) * _ROW + _GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y:.0f}" width="{_WIDTH}" height="{y:.0f}"'
    return f'{head} style="font:11px system-ui,sans-serif;background:#fff">{_scale(window, y)}{"".join(body)}</svg>'


def _place(seconds: float, window: Window) -> float:
    share = (seconds - window[0]) / (window[1] - window[0])
    return _LEFT + (_WIDTH - _LEFT - 10) * min(max(share, 0.0), 1.0)


def _bars(row: Mapping[Hashable, Any], y: float, window: Window) -> str:
    bars = []
    for _, start, end, color in PHASES:
        begin, stop = row[start], row[end]
        if np.isnan(begin):
            continue
        stop = row["ended_s"] if np.isnan(stop) else stop
        left, right = _place(begin, window), _place(stop, window)
        if right > left:
            bars.append(f'<rect x="{left:.1f}" y="{y:.0f}" width="{right - left:.1f}" height="4" fill="{color}"/>')
    lengths = f"{row['prompt_tokens']} + {row['output_tokens']} tokens"
    title = f"{row['request_id']}: {lengths}, TTFT {number(row['ttft_s'])} s, {row['status']}"
    return f"<g><title>{escape(title)}</title>{''.join(bars)}</g>"


def _scale(window: Window, height: float) -> str:
    parts = []
    for share in np.linspace(0, 1, 11):
        seconds = window[0] + share * (window[1] - window[0])
        x = _place(seconds, window)
        parts.append(f'<path d="M{x:.1f} 18V{height:.0f}" stroke="#eee"/>')
        anchor = "end" if share == 1 else "middle"
        parts.append(f'<text x="{x:.1f}" y="12" text-anchor="{anchor}">{number(float(seconds))} s</text>')
    return "".join(parts)


def legend() -> str:
    """What the colours mean."""
    return " ".join(f'<span style="background:{color};padding:0 8px">{name}</span>' for name, _, _, color in PHASES)
