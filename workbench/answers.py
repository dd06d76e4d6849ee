"""What `capacity` and `plan` answer in a notebook."""

from __future__ import annotations

from functools import cached_property
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from ..configs.plan import Plan
from ..planner.capacity.capacity import CapacityResult
from ..planner.search.planfile import plan_of
from ..planner.search.planning import Planned
from ..planner.search.summary import summary
from .reprs import html_table
from .svg import Line, chart, number

if TYPE_CHECKING:
    from pandas import DataFrame


class CapacityAnswer:
    """result : the search with all its runs; its `verdict` says whether any load, or every load, meets the SLO."""

    def __init__(self, result: CapacityResult) -> None:
        self.result = result

    @property
    def request_rate(self) -> float:
        """Requests/s at the highest load that meets the SLO; nan where none does."""
        return self.result.best.request_rate if self.result.best else float("nan")

    @cached_property
    def probes(self) -> DataFrame:
        """One row a run of the search: rate_scale, request_rate (requests/s), met, missed, and its latencies in ms."""
        from pandas import DataFrame

        keys = ("p99_ttft_ms", "p99_tpot_ms", "mean_e2el_ms", "output_throughput")
        rows = [
            {
                "rate_scale": p.rate_scale, "request_rate": p.request_rate, "met": p.met, "missed": ", ".join(p.missed),
                **{key: p.report.get(key) for key in keys},
            }
            for p in self.result.probes
        ]  # fmt: skip
        return DataFrame(rows).sort_values("request_rate", ignore_index=True)

    def __repr__(self) -> str:
        if self.result.verdict != "found" or not self.result.worst:
            return f"capacity: {self.result.verdict} load meets the SLO"
        missed = ", ".join(self.result.worst.missed)
        return f"capacity: {self.request_rate:.4g} requests/s ({len(self.result.probes)} runs; above: {missed} missed)"

    def _repr_html_(self) -> str:
        probes = self.probes.dropna(subset=["p99_ttft_ms"])
        x = probes["request_rate"].to_numpy(float)
        line = Line("p99 TTFT", x, probes["p99_ttft_ms"].to_numpy(float))
        limits = [self.request_rate] if np.isfinite(self.request_rate) else []
        return f"<div>{escape(repr(self))}<br>{chart([line], 'p99 TTFT, ms', 'requests/s', limits=limits)}</div>"


class PlanAnswer:
    """planned : the search. report : what `plan.json` holds."""

    def __init__(self, planned: Planned) -> None:
        self.planned, self.report = planned, planned.report

    @property
    def plan(self) -> Plan | None:
        """The cheapest plan that met the SLO in simulation; None where there is none."""
        return plan_of(self.planned.values) if self.planned.values else None

    @cached_property
    def tried(self) -> DataFrame:
        """One row a fleet that was replayed: replicas by kind, USD/h, watts, whether it met the SLO."""
        from pandas import DataFrame

        rows = [
            {**tried.counts, "usd_per_hour": tried.usd_per_hour, "watts": tried.watts, "met": tried.verdict.met}
            for tried in self.planned.tried
        ]
        return DataFrame(rows)

    def __repr__(self) -> str:
        return summary(self.report)

    def _repr_html_(self) -> str:
        rows = [
            [" + ".join(f"{n} x {name}" for name, n in sorted(t.counts.items())), number(t.usd_per_hour),
             number(t.watts), "met" if t.verdict.met else f"missed {t.verdict.missed}"]
            for t in sorted(self.planned.tried, key=lambda t: t.usd_per_hour)
        ]  # fmt: skip
        table = html_table(["fleet", "USD/h", "W", "SLO"], rows)
        return f"<div><pre>{escape(repr(self))}</pre>{table}</div>"
