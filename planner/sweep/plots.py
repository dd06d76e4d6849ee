"""The picture of a sweep: latency and throughput over what varies, a line for every combination of the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..figures import panels, save
from .table import Record

_LEGEND = 12  # lines that a legend can still tell apart


def write_sweep_plot(table: Sequence[Record], settings: Sequence[str], path: Path) -> None:
    """One panel each for the 99th percentiles of TTFT and TPOT, and for goodput (throughput without an SLO).

    settings : the columns of `table` that are settings. Seeds are averaged, their range is shaded; the load, or else
    the first other figure that varies, is the horizontal axis. Runs that failed are left out.
    """
    done = [record for record in table if record["status"] == "done"]
    good = "request_goodput" if any("request_goodput" in record for record in done) else "request_throughput"
    figures = {"p99_ttft_ms": "p99 TTFT, ms", "p99_tpot_ms": "p99 TPOT, ms", good: good.replace("_", " ") + ", 1/s"}
    figure, axes = panels(list(figures.values()))
    across, apart = _axes(done, settings)
    lines: dict[str, list[Record]] = {}
    for record in done:
        label = ", ".join(f"{key}={record[key]}" for key in apart if record[key] is not None)
        lines.setdefault(label or "as in the plan", []).append(record)
    for axis, name in zip(axes, figures, strict=True):
        for label, line in lines.items():
            _line(axis, label, line, across, name)
        axis.set_xlabel(across or "")
        low, high = axis.get_ylim()
        if name.endswith("_ms") and low > 0 and high > 10 * low:
            axis.set_yscale("log")
        if not across:
            axis.tick_params(axis="x", labelrotation=30)
    if across and 1 < len(lines) <= _LEGEND:
        axes[0].legend(fontsize=7)
    save(figure, path)


def _axes(table: Sequence[Record], settings: Sequence[str]) -> tuple[str | None, list[str]]:
    """The setting for the horizontal axis, and those that tell lines apart."""
    varying = [key for key in settings if key != "seed" and len({str(record[key]) for record in table}) > 1]
    figures = [key for key in varying if all(_number(record[key]) for record in table)]
    across = "rate_scale" if "rate_scale" in figures else figures[0] if figures else None
    return across, [key for key in varying if key != across]


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _line(axis: Any, label: str, line: Sequence[Record], across: str | None, name: str) -> None:
    points: dict[Any, list[float]] = {}
    for record in line:
        if record.get(name) is not None:
            points.setdefault(record[across] if across else label, []).append(record[name])
    if not points:
        return
    where = sorted(points)
    axis.plot(where, [np.mean(points[x]) for x in where], "o-", ms=3, lw=1, label=label)
    axis.fill_between(where, [min(points[x]) for x in where], [max(points[x]) for x in where], alpha=0.15)
