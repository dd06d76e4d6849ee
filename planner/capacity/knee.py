"""The knee curve: latency and goodput at loads around a plan's capacity, over several seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...configs.plan import Plan
from ...configs.slo import SLO
from ...sim.deploy import deploy
from ...sim.report.confidence import intervals
from ...sim.report.report import build_report
from ...sim.run import run
from ...traces.table import RequestTable
from ...traces.transform import scale_rate
from ..figures import panels, save
from ..sweep.table import Record, headline
from .capacity import misses, request_rate

SHARES = (0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5)  # of the capacity: closest at the knee
_LATENCIES = tuple(f"{s}_{m}_ms" for m in ("ttft", "tpot", "itl", "e2el") for s in ("mean", "p50", "p90", "p95", "p99"))
_FIGURES = (*_LATENCIES, "request_throughput", "output_throughput", "request_goodput", "goodput_of_offered")


def knee_curve(
    tables: Mapping[int, RequestTable], plan: Plan, slo: SLO, scales: Sequence[float], progress: Callable[[int], None]
) -> list[Record]:
    """A record a load: rate scale, offered requests/s, the mean over the seeds of every figure, `X_half_width` of its
    95 % interval where there are several seeds, and the share of seeds whose runs the plan could carry.

    tables : the trace of each seed. progress : told how many runs have ended.
    """
    records, ended = [], 0
    deployments = deploy(plan)
    for scale in scales:
        reports = []
        for seed, table in tables.items():
            result = run(scale_rate(table, scale), plan, seed=seed, deployments=deployments)
            if result.interrupted:
                raise KeyboardInterrupt
            reports.append(build_report(result, slo))
            ended += 1
            progress(ended)
        rate = sum(request_rate(table) for table in tables.values()) / len(tables)
        records.append({"rate_scale": scale, "request_rate": rate * scale, **_means(reports)})
    return records


def _means(reports: Sequence[dict[str, Any]]) -> Record:
    figures = [{key: value for key, value in headline(report).items() if key in _FIGURES} for report in reports]
    record: Record = dict(figures[0])
    if len(figures) > 1:
        between = intervals(figures)
        for key in _FIGURES:
            record[key] = between[key]["mean"] if key in between else None
        record |= {f"{key}_half_width": figure["half_width"] for key, figure in between.items()}
    record["carried_share"] = sum(not misses(report) for report in reports) / len(reports)
    return record


def write_knee_plot(curve: Sequence[Record], found: tuple[float, float], path: Path) -> None:
    """Latencies and goodput over the offered load; `found` is the capacity in requests/s and its half-width."""
    figure, axes = panels(["TTFT, ms", "TPOT, ms", "requests/s"])
    for axis, metric in zip(axes, ("ttft", "tpot"), strict=False):
        for statistic in ("p50", "p90", "p99"):
            _band(axis, curve, f"{statistic}_{metric}_ms", statistic)
        axis.set_yscale("log")
    offered = [record["request_rate"] for record in curve]
    axes[2].plot(offered, offered, ":", color="grey", lw=1, label="offered")
    _band(axes[2], curve, "request_throughput", "completed")
    _band(axes[2], curve, "request_goodput", "good")
    rate, half_width = found
    for axis in axes:
        axis.axvline(rate, color="black", lw=0.8)
        axis.axvspan(rate - half_width, rate + half_width, color="black", alpha=0.1)
        axis.set_xlabel("offered requests/s")
        axis.legend(fontsize=7)
    save(figure, path)


def _band(axis: Any, curve: Sequence[Record], key: str, label: str) -> None:
    known = [record for record in curve if record[key] is not None]
    load = [record["request_rate"] for record in known]
    mean = np.array([record[key] for record in known])
    half_width = np.array([record.get(f"{key}_half_width", 0.0) for record in known])
    axis.plot(load, mean, "o-", ms=3, lw=1, label=label)
    axis.fill_between(load, mean - half_width, mean + half_width, alpha=0.15)
