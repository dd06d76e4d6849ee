"""Two runs or more of the same trace, request by request: differences with confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..profiling.recorded.run import RecordedRun
from ..traces.columns import Floats
from .bootstrap import paired_intervals
from .report import Report
from .side import LATENCIES, Side, named_apart, side_of

if TYPE_CHECKING:
    from pandas import DataFrame

PERCENTS = (50, 90, 99)
STATISTICS = ("mean", *(f"p{percent}" for percent in PERCENTS))
_TOTALS = (
    "completed", "request_throughput", "output_throughput", "cost_per_1m_output_tokens", "usd_per_hour",
    "request_goodput",
)  # fmt: skip
_LEAST = 0.5  # of the requests of the smaller run must be in both

Comparable = Report | RecordedRun | str | Path


def compare(a: Comparable, b: Comparable, *more: Comparable, names: Sequence[str] | None = None) -> Comparison:
    """Runs of the same trace side by side; `a` is what the others are compared with.

    Each is a `Report`, a folder of `servecast simulate --out`, or a recorded run of a real engine in any format that
    `servecast validate` reads. names : of the runs, in order.

    Raises `InputError` for runs of different traces.
    """
    sides = named_apart([side_of(run) for run in (a, b, *more)], names)
    return Comparison([Pairs(sides[0], other) for other in sides[1:]])


class Pairs:
    """The requests that two runs have in common, in order of arrival.

    rows : their places in `base` and in `other`. only : how many are in one of the two alone.
    """

    def __init__(self, base: Side, other: Side) -> None:
        self.base, self.other = base, other
        if base.trace and other.trace and base.trace != other.trace:
            found = f"{other.name} replays another trace than {base.name} ({other.trace}, {base.trace})"
            raise InputError(other.name, found, "runs of the same requests at the same times")
        place = {name: i for i, name in enumerate(other.ids)}
        both = [(i, place[name]) for i, name in enumerate(base.ids) if name in place]
        if len(both) < max(1, _LEAST * min(len(base.ids), len(other.ids))):
            found = f"{len(both)} of its {len(other.ids)} requests are in {base.name}"
            raise InputError(other.name, found, "a run of the same requests, under the same ids")
        rows = np.array(both)
        lengths = base.prompt_tokens[rows[:, 0]], other.prompt_tokens[rows[:, 1]]
        differ = int((lengths[0] != lengths[1]).sum())
        if differ > len(rows) // 100:  # a tokenizer's extra token, a truncated prompt: a few may
            found = f"{differ} of {len(rows)} requests have another prompt length than in {base.name}"
            raise InputError(other.name, found, "a run of the same requests, under the same ids")
        arrival = base.arrival[rows[:, 0]]
        warm = arrival - arrival.min() >= max(base.warmup, other.warmup)
        self.rows = (rows[warm, 0], rows[warm, 1])
        self.only = len(base.ids) - len(both), len(other.ids) - len(both)

    def latencies(self, metric: str) -> tuple[Floats, Floats, Floats]:
        """Arrival, and seconds in base and in other, of the requests that have both."""
        a, b = self.base.seconds[metric][self.rows[0]], self.other.seconds[metric][self.rows[1]]
        both = np.isfinite(a) & np.isfinite(b)
        return self.base.arrival[self.rows[0]][both], a[both], b[both]

    @cached_property
    def differences(self) -> dict[str, dict[str, dict[str, float]]]:
        """By metric and statistic: base, other, difference and its interval low, high, in milliseconds; `faster`, the
        share of requests that are faster in `other`."""
        found: dict[str, dict[str, dict[str, float]]] = {}
        for metric in LATENCIES:
            _, a, b = (1e3 * seconds for seconds in self.latencies(metric))
            if not len(a):
                continue
            intervals = paired_intervals(a, b, [percent / 100 for percent in PERCENTS])
            values = [(f(a), f(b)) for f in (np.mean, *(_percentile(percent) for percent in PERCENTS))]
            faster = float((b < a).mean())
            found[metric] = {
                name: {"base": float(x), "other": float(y), "difference": float(y - x), "low": low, "high": high,
                       "faster": faster}
                for name, (x, y), (low, high) in zip(STATISTICS, values, intervals, strict=True)
            }  # fmt: skip
        return found


def _percentile(percent: int) -> Any:
    return lambda values: np.percentile(values, percent)


class Comparison:
    """pairs : the first run with each of the others."""

    def __init__(self, pairs: Sequence[Pairs]) -> None:
        self.pairs = list(pairs)

    @property
    def sides(self) -> list[Side]:
        """All runs, the one that the others are compared with first."""
        return [self.pairs[0].base, *(pair.other for pair in self.pairs)]

    @cached_property
    def frame(self) -> DataFrame:
        """A row a run, metric and statistic: base, other, difference, low, high (ms; 95 %), faster (share)."""
        from pandas import DataFrame

        rows = [
            {"run": pair.other.name, "metric": metric, "statistic": statistic, **figures}
            for pair in self.pairs
            for metric, statistics in pair.differences.items()
            for statistic, figures in statistics.items()
        ]
        return DataFrame(rows)

    def totals(self) -> dict[str, dict[str, float | None]]:
        """Headline figures of the simulated runs, by run."""
        return {side.name: {name: side.data.get(name) for name in _TOTALS} for side in self.sides if side.data}

    def components(self) -> dict[str, dict[str, float | None]]:
        """Where the time goes, mean ms a request, of the simulated runs."""
        names = ("queueing", "prefill", "decode", "interference", "preemption", "transfer", "host")
        return {
            side.name: {name: side.data.get(f"mean_{name}_ms") for name in names} for side in self.sides if side.data
        }

    def as_dict(self) -> dict[str, Any]:
        """What `compare.json` holds."""
        return {
            "base": self.pairs[0].base.name,
            "confidence_level": 0.95,
            "runs": [
                {
                    "name": pair.other.name, "paired": len(pair.rows[0]), "only_in_base": pair.only[0],
                    "only_in_run": pair.only[1], "differences": pair.differences,
                }
                for pair in self.pairs
            ],
            "totals": self.totals(),
            "components": self.components(),
        }  # fmt: skip

    def __repr__(self) -> str:
        from .compare_output import as_text

        return as_text(self)

    def _repr_html_(self) -> str:
        from .compare_output import as_html

        return as_html(self)
