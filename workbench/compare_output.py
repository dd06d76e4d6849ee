"""A comparison as lines for the terminal, and as tables and charts."""

from __future__ import annotations

from html import escape

import numpy as np

from .compare import Comparison, Pairs
from .page import page
from .reprs import WORDS, html_table
from .svg import Line, chart, distribution, number

_BINS = 60  # of the difference over time


def as_text(c: Comparison) -> str:
    """A table a pair, in milliseconds."""
    lines = []
    for pair in c.pairs:
        lines += [f"{pair.other.name} against {pair.base.name}: {_counts(pair)}", ""]
        columns = ("", "base", "other", "difference", "change", "95 % interval")
        lines.append("{:<28}{:>10}{:>10}{:>12}{:>9}   {}".format(*columns))
        for metric, statistics in pair.differences.items():
            for name, f in statistics.items():
                change = f"{f['difference'] / f['base']:+.1%}" if f["base"] else "-"
                values = f"{number(f['base']):>10}{number(f['other']):>10}{_signed(f['difference']):>12}{change:>9}"
                lines.append(f"{WORDS[metric] + ' ' + name:<28}{values}   {_interval(f)}")
            lines.append(f"  {f['faster']:.0%} of the requests are faster")
        lines.append("")
    lines += _totals(c)
    return "\n".join(lines).rstrip()


def _counts(pair: Pairs) -> str:
    only = f", {pair.only[0]:,} and {pair.only[1]:,} in one alone" if any(pair.only) else ""
    return f"{len(pair.rows[0]):,} requests in both{only}"


def _interval(f: dict[str, float]) -> str:
    clear = "" if f["low"] <= 0 <= f["high"] else " *"
    return f"{_signed(f['low'])} to {_signed(f['high'])}{clear}"


def _signed(value: float) -> str:
    text = number(value)
    return text if text.startswith("-") else "+" + text


def _totals(c: Comparison) -> list[str]:
    totals = c.totals()
    if not totals:
        return []
    names = list(next(iter(totals.values())))
    rows = [(name, [figures[name] for figures in totals.values()]) for name in names]
    width = max(12, *(len(name) + 2 for name in totals))
    lines = [" " * 28 + "".join(f"{name:>{width}}" for name in totals)]
    lines += [
        f"{name.replace('_', ' '):<28}" + "".join(f"{number(v):>{width}}" for v in values)
        for name, values in rows
        if any(value is not None for value in values)
    ]
    return [*lines, "", "* zero lies outside the interval: the difference does not hang on which requests came"]


def as_html(c: Comparison) -> str:
    """Tables and charts, for a notebook or a page."""
    parts = []
    for pair in c.pairs:
        rows = [
            [f"{WORDS[metric]} {name}", f["base"], f["other"], f["difference"],
             _interval(f)]
            for metric, statistics in pair.differences.items()
            for name, f in statistics.items()
        ]  # fmt: skip
        parts.append(f"<h3>{escape(pair.other.name)} against {escape(pair.base.name)}</h3>")
        parts.append(f"<p>{_counts(pair)}; milliseconds</p>")
        parts.append(html_table(["", pair.base.name, pair.other.name, "difference", "95 % interval"], rows))
    for metric in ("ttft", "tpot", "e2el"):
        lines = [distribution(side.name, side.seconds[metric] * 1e3) for side in c.sides]
        parts.append(chart(lines, f"{WORDS[metric]}: share of requests", "ms", log=True))
    parts += [_over_time(pair) for pair in c.pairs]
    components = c.components()
    if components:
        names = list(next(iter(components.values())))
        rows = [[side, *(figures[name] for name in names)] for side, figures in components.items()]
        parts += ["<p>where the time goes, mean ms a request</p>", html_table(["", *names], rows)]
    return f"<div>{''.join(parts)}</div>"


def _over_time(pair: Pairs) -> str:
    """The difference in TTFT over the arrivals: median, and the middle 80 % of the requests as a band."""
    arrival, a, b = pair.latencies("ttft")
    difference = (b - a) * 1e3
    cut = [rows for rows in np.array_split(np.arange(len(arrival)), min(_BINS, len(arrival))) if len(rows)]
    time = np.array([arrival[rows].mean() for rows in cut])
    low, middle, high = (np.array([np.percentile(difference[rows], p) for rows in cut]) for p in (10, 50, 90))
    line = Line(pair.other.name, time, middle, low, high)
    return chart([line], f"TTFT of {pair.other.name} - {pair.base.name}, ms", "arrival, s")


def comparison_page(c: Comparison) -> str:
    """One HTML file without any reference to another."""
    return page(" and ".join(side.name for side in c.sides), as_html(c))
