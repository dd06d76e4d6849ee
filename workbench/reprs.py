"""What a notebook shows of a report: a few lines, a table and two small charts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from .svg import Line, chart, distribution, number

if TYPE_CHECKING:
    from .report import Report

WORDS = {
    "ttft": "time to first token", "tpot": "time per output token", "itl": "inter-token latency",
    "e2el": "end-to-end latency",
}  # fmt: skip
_CELL = "padding:2px 10px;text-align:"


def html_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table whose first column is text and the others figures."""

    def row(cells: Sequence[object], tag: str) -> str:
        texts = [
            f'<{tag} style="{_CELL}{"right" if i else "left"}">{escape(_text(c))}</{tag}>' for i, c in enumerate(cells)
        ]
        return f"<tr>{''.join(texts)}</tr>"

    return f"<table>{row(header, 'th')}{''.join(row(cells, 'td') for cells in rows)}</table>"


def _text(value: object) -> str:
    return value if isinstance(value, str) else number(value if isinstance(value, int | float) else None)


def report_html(report: Report) -> str:
    """For `Report._repr_html_`."""
    data, simulation = report.data, report.data["simulation"]
    lines = [
        f"<b>{escape(str(simulation['trace']))} on {escape(report.name)}</b>",
        f"{data['completed']:,} of {data['num_prompts']:,} requests in {number(data['duration'])} s; "
        f"{number(data['request_throughput'])} requests/s, {number(data['output_throughput'])} output tokens/s",
        f"load: {escape(simulation['load']['verdict'])} ({escape(simulation['load']['reason'])})",
        *(escape(line) for line in slo_lines(data)),
    ]
    figures = latency_table(report)
    return f"<div>{'<br>'.join(lines)}{figures}{latency_chart(report)}{load_chart(report)}</div>"


def latency_table(report: Report) -> str:
    """TTFT, TPOT, ITL and E2EL in milliseconds."""
    columns = ["mean", "p50", "p90", "p95", "p99"]
    rows = [[WORDS[name], *row] for name, row in zip(WORDS, report.summary[columns].to_numpy().tolist(), strict=True)]
    return html_table(["milliseconds", *columns], rows)


def slo_lines(data: dict[str, Any]) -> list[str]:
    """The verdict on every objective, and why it was missed."""
    lines = []
    for objective in data.get("slo", {}).get("objectives", ()):
        why = ""
        if objective.get("dominating"):
            share = objective["shares"][objective["dominating"]]
            why = f": mostly {objective['dominating']} ({share:.0%})"
        met = "met" if objective["met"] else "MISSED"
        lines.append(f"{met} {objective['objective']} ({number(objective['value'])}){why}")
    return lines


def latency_chart(report: Report) -> str:
    """The distributions of the latencies of requests."""
    requests = report.requests
    names = ("ttft", "tpot", "e2el")
    lines = [distribution(name.upper(), requests[f"{name}_s"].to_numpy() * 1e3) for name in names]
    return chart(lines, "share of requests", "ms", log=True)


def load_chart(report: Report) -> str:
    """Running and waiting requests of all engines over time."""
    series = report.timeseries.groupby("t_s", sort=True)[["running", "waiting"]].sum()
    time = series.index.to_numpy(float)
    return chart([Line(name, time, series[name].to_numpy(float)) for name in series.columns], "requests", "seconds")
