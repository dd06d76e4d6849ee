"""The report of a run as one HTML page that needs no network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .excerpt import Excerpt, Window, excerpt
from .frames import read_frame
from .page import page
from .report import FILES, Report
from .reprs import WORDS, html_table, latency_table, slo_lines
from .svg import Line, chart, distribution, number
from .timeline import MOST, legend, timeline

if TYPE_CHECKING:
    from pandas import DataFrame

_LINES = 7  # engines with a line of their own in a chart; more are shown as median and range
_SERIES = {
    "running": "running requests", "waiting": "waiting requests", "kv_cache_usage": "share of KV blocks in use",
    "generation_throughput": "decoded tokens/s", "prompt_throughput": "prompt tokens/s",
}  # fmt: skip
_FIGURES = {
    "completed": "requests finished", "failed": "not finished", "duration": "seconds",
    "request_throughput": "requests/s", "output_throughput": "output tokens/s", "usd_per_hour": "USD/h",
    "cost_per_1m_output_tokens": "USD per 1M output tokens",
}  # fmt: skip


def report_page(folder: Path, window: Window | None = None) -> str:
    """The page for a folder of `servecast simulate --out`. window : seconds of the timeline; by default the busiest."""
    report = Report.load(folder)
    rows = excerpt(folder, report.data, window)
    title = f"{report.data['simulation']['trace']} on {report.name}"
    parts = [
        f"<h1>{escape(title)}</h1>", *_summary(report), *_objectives(report.data), *_latencies(report, rows),
        *_over_time(read_frame(folder / FILES[2])), *_timeline(rows), *_provenance(report.data),
    ]  # fmt: skip
    return page(title, "\n".join(parts))


def _summary(report: Report) -> Iterator[str]:
    data, load = report.data, report.data["simulation"]["load"]
    kind = "bad" if load["verdict"] == "overloaded" else "good"
    yield f'<p>load: <span class="{kind}">{escape(load["verdict"])}</span>, {escape(load["reason"])}</p>'
    broken = [name for name, holds in data["simulation"]["invariants"].items() if not holds]
    if broken:
        yield f'<p class="bad">BROKEN INVARIANTS (please report): {escape(", ".join(broken))}</p>'
    if data["simulation"]["interrupted"]:
        yield '<p class="bad">The run was interrupted: what is here is what had finished.</p>'
    yield html_table(list(_FIGURES.values()), [[number(data.get(key)) for key in _FIGURES]])


def _objectives(data: dict[str, Any]) -> Iterator[str]:
    slo = data.get("slo")
    if not slo:
        return
    yield "<h2>SLO</h2>"
    share = slo["goodput_of_offered"]
    yield f"<p>goodput {number(slo['request_goodput'])} requests/s, {share:.2%} of those offered</p>"
    for line in slo_lines(data):
        yield f'<div class="{"bad" if line.startswith("MISSED") else "good"}">{escape(line)}</div>'
    missed = {f"over {name} {limit['limit_s']:g} s": limit for name, limit in slo["limits"].items()}
    missed |= {objective["objective"]: objective for objective in slo["objectives"] if objective.get("shares")}
    rows = [
        [name, f"{limit['requests']:,}", *(f"{limit['shares'].get(c, 0):.0%}" for c in _COMPONENTS)]
        for name, limit in missed.items()
        if limit.get("shares")
    ]
    if rows:
        yield "<p>Why requests were late: the share of each component in the time that was too long</p>"
        yield html_table(["", "requests", *_COMPONENTS], rows)


_COMPONENTS = ("queueing", "prefill", "decode", "interference", "preemption", "transfer", "host")


def _latencies(report: Report, rows: Excerpt) -> Iterator[str]:
    data = report.data
    yield "<h2>Latency</h2>"
    yield latency_table(report)
    if rows.step > 1:
        yield f'<p class="note">Charts are of every {rows.step:,}th of {rows.rows:,} requests; tables are of all.</p>'
    limits = (data.get("slo") or {}).get("limits", {})
    for name in ("ttft", "tpot", "e2el"):
        marks = [limits[name]["limit_s"] * 1e3] if name in limits else []
        line = distribution(name, rows.sample[f"{name}_s"].to_numpy(float) * 1e3)
        yield chart([line], f"{WORDS[name]}: share of requests", "ms", log=True, limits=marks, width=360)
    yield "<p>Where the time goes, mean of the finished requests</p>"
    yield html_table([f"{c}, ms" for c in _COMPONENTS], [[number(data[f"mean_{c}_ms"]) for c in _COMPONENTS]])
    for column, groups in data.get("groups", {}).items():
        keys = (
            "offered",
            "completed",
            "p50_ttft_ms",
            "p99_ttft_ms",
            "p50_tpot_ms",
            "p99_tpot_ms",
            "goodput_of_offered",
        )
        shown = [key for key in keys if any(key in group for group in groups.values())]
        yield html_table(
            [column, *shown], [[name, *(group.get(key) for key in shown)] for name, group in groups.items()]
        )


def _over_time(series: DataFrame) -> Iterator[str]:
    yield "<h2>Over time</h2>"
    engines = series["engine"].unique()
    if len(engines) > _LINES:
        yield f'<p class="note">{len(engines)} engines: median, and from the least to the greatest.</p>'
    for name, title in _SERIES.items():
        table = series.pivot(index="t_s", columns="engine", values=name)
        time, values = table.index.to_numpy(float), table.to_numpy(float)
        if len(engines) <= _LINES:
            lines = [Line(f"engine {e}", time, values[:, i]) for i, e in enumerate(table.columns)]
        else:
            lines = [Line("median", time, np.median(values, axis=1), values.min(axis=1), values.max(axis=1))]
        yield chart(lines, title, "seconds", width=560)


def _timeline(rows: Excerpt) -> Iterator[str]:
    start, end = rows.window
    yield f"<h2>From {start:,.4g} to {end:,.4g} s</h2><p>{legend()}</p>"
    shown = min(len(rows.arriving), MOST)
    if not shown:
        yield '<p class="note">no request arrives here</p>'
        return
    yield f'<p class="note">{shown:,} requests that arrive here; {rows.overlapping - shown:,} more are there.</p>'
    yield f'<div class="wide">{timeline(rows.arriving, rows.window)}</div>'


def _provenance(data: dict[str, Any]) -> Iterator[str]:
    simulation = data["simulation"]
    yield "<h2>What this rests on</h2>"
    keys = ("servecast", "plan", "plan_fingerprint", "trace", "trace_fingerprint", "seed", "warmup_s",
            "iterations", "preemptions", "timeouts")  # fmt: skip
    rows = [[key.replace("_", " "), str(simulation[key])] for key in keys]
    rows.append(["time outside what was measured", f"{simulation['extrapolated_share']:.2%}"])
    yield html_table(["", ""], rows)
    for pool in simulation["pools"]:
        busy = pool["busy_share"]
        yield (
            f"<p><b>{escape(pool['name'])}</b>: {pool['replicas']} replicas, {pool['accelerators']} x "
            f"{escape(str(pool['cost_model']['hardware']))}, {escape(pool['engine'])}, step times "
            f"<b>{escape(str(pool['cost_model']['label']))}</b>, {pool['kv_tokens']:,} tokens of KV cache an engine, "
            f"busy {min(busy, default=0):.0%} to {max(busy, default=0):.0%}</p>"
        )
        yield f"<pre>{escape(chr(10).join(map(str, pool['kv_capacity'])))}</pre>"
        described = escape(json.dumps(pool["cost_model"], indent=1))
        yield f"<details><summary>cost model</summary><pre>{described}</pre></details>"
