"""Simulate a recorded run and say how far off we are: errors are simulated / recorded - 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..costmodels.base import TICKS_PER_SECOND
from ..errors import InputError, unknown_name
from ..sim.report.gaps import Gaps
from ..sim.report.metrics import Finished
from ..sim.report.overload import overload_verdict
from ..sim.run import Run, run
from ..traces.columns import Floats
from ..traces.files import replacing_text
from .recorded.run import METRICS, TIMES, RecordedRun, metrics

STATS = ("mean", "p50", "p90", "p95", "p99")
_PERCENTS = (50, 90, 95, 99)


@dataclass(frozen=True)
class Comparison:
    """A recorded run and its simulation, request by request: seconds of each metric in the table's order, nan where a
    request has none or did not finish."""

    recorded: RecordedRun
    run: Run
    simulated: Mapping[str, Floats]

    def pairs(self, metric: str) -> tuple[Floats, Floats]:
        """(simulated, recorded) seconds of the requests that have both; an engine-side delay of 0 has no ratio."""
        simulated, recorded = self.simulated[metric], self.recorded.seconds[metric]
        both = np.isfinite(simulated) & np.isfinite(recorded) & (recorded > 0)
        return simulated[both], recorded[both]


def compare(recorded: RecordedRun) -> Comparison:
    """Simulate the recorded workload with the recorded settings."""
    return comparison(recorded, run(recorded.table, recorded.plan, users=recorded.users))


def comparison(recorded: RecordedRun, simulated: Run) -> Comparison:
    """The same with a simulation at hand."""
    return Comparison(recorded, simulated, simulated_seconds(simulated))


def simulated_seconds(simulated: Run) -> dict[str, Floats]:
    """`METRICS` of a simulated run, by row of its table."""
    requests = Finished(simulated)

    def column(name: str, unit: int) -> Floats:
        values = np.full(len(simulated.table), np.nan)
        values[requests.rows] = requests.column(name) / unit
        return values

    times = {name: column(name, TICKS_PER_SECOND) for name in ("arrival", *TIMES)}
    return metrics(**times, tokens=column("generated", 1))


def validation(c: Comparison) -> dict[str, Any]:
    """What `validate.json` holds."""
    errors = {metric: _errors(*c.pairs(metric)) for metric in METRICS}
    if c.recorded.gaps is not None:
        errors["itl"] = _gap_errors(c)
    busy = sum(e.busy for e in c.run.engines)
    engine = c.run.deployments[0]
    return {
        "run": c.recorded.name,
        "plan_fingerprint": c.recorded.plan.fingerprint(),
        "engine": engine.preset.name,
        "step_times": engine.cost.label,
        "requests": len(c.recorded.table),
        "compared": len(c.pairs("e2e_from_arrival")[0]),
        "errors": {metric: found for metric, found in errors.items() if found},
        "per_request": {metric: found for metric in METRICS if (found := _per_request(*c.pairs(metric)))},
        "load": overload_verdict(c.run),
        "kv_use": _kv_use(c),
        "preemptions": sum(e.preemptions for e in c.run.engines),
        "extrapolated_share": sum(e.outside for e in c.run.engines) / busy if busy else 0.0,
        "cpu_seconds": c.run.cpu_seconds,
        "notes": list(c.recorded.notes),
    }


def statistics(seconds: Floats) -> dict[str, float]:
    """`STATS` of some seconds."""
    return dict(zip(STATS, [float(seconds.mean()), *np.percentile(seconds, _PERCENTS).tolist()], strict=True))


def _errors(simulated: Floats, recorded: Floats) -> dict[str, float]:
    if not len(recorded):
        return {}
    ours, theirs = statistics(simulated), statistics(recorded)
    return {stat: ours[stat] / theirs[stat] - 1 for stat in STATS}


def _gap_errors(c: Comparison) -> dict[str, float]:
    gaps, recorded = Gaps(c.run.recorder), c.recorded.gaps
    if recorded is None or not len(recorded) or not gaps.count:
        return {}
    ticks = [gaps.mean_and_std()[0], *gaps.percentiles(list(_PERCENTS))]
    theirs = statistics(recorded)
    return {stat: value / TICKS_PER_SECOND / theirs[stat] - 1 for stat, value in zip(STATS, ticks, strict=True)}


def _per_request(simulated: Floats, recorded: Floats) -> dict[str, float]:
    if not len(recorded):
        return {}
    off = np.abs(simulated / recorded - 1)
    return {"mean_abs": float(off.mean()), "p90_abs": float(np.percentile(off, 90))}


def _kv_use(c: Comparison) -> dict[str, Any]:
    """Blocks of an engine, as used here, as the memory arithmetic has them and as recorded; and the greatest share in
    use at the end of a leap."""
    engine = c.run.deployments[0]
    used = max((int(table.columns()["used_blocks"].max(initial=0)) for table in c.run.recorder.leaps), default=0)
    return {
        "blocks": engine.blocks,
        "predicted_blocks": engine.capacity.num_blocks,
        "recorded_blocks": c.recorded.kv_blocks,
        "peak": used / c.run.engines[0].total_blocks,
    }


def write_requests(c: Comparison, path: Path) -> None:
    """A row a request: its lengths, and simulated and recorded seconds of every metric, empty where it has none."""
    table = c.recorded.table
    names = list(table.request_id) if table.request_id is not None else list(map(str, range(len(table))))
    columns = [table.arrival, *(seconds[metric] for metric in METRICS for seconds in (c.simulated, c.recorded.seconds))]
    header = [f"{metric}_{side}_s" for metric in METRICS for side in ("simulated", "recorded")]
    rows = zip(names, table.prompt_tokens.tolist(), table.output_tokens.tolist(),
               *(column.tolist() for column in columns), strict=True)  # fmt: skip
    with replacing_text(path) as text:
        text.write(",".join(["request_id", "prompt_tokens", "output_tokens", "arrival_s", *header]) + "\n")
        for name, prompt, output, *values in rows:
            cells = ["" if np.isnan(value) else f"{value:.9f}" for value in values]
            text.write(",".join([str(name), str(prompt), str(output), *cells]) + "\n")


def missed(result: Mapping[str, Any], limits: Mapping[str, float]) -> list[str]:
    """Every error beyond its limit, in words.

    limits : greatest absolute error by key, such as "e2e_from_arrival.mean", "e2e_from_arrival" (all its statistics),
        "e2e_from_arrival.mean_abs" (mean over requests), or "" (all statistics of all metrics).

    Raises InputError for a key that the result does not have.
    """
    known = {f"{metric}.{stat}": value for metric, found in result["errors"].items() for stat, value in found.items()}
    by_request = {f"{m}.{stat}": value for m, found in result["per_request"].items() for stat, value in found.items()}
    lines = []
    for key, limit in limits.items():
        within = {name: value for name, value in known.items() if not key or name == key or name.startswith(key + ".")}
        within = within or {name: value for name, value in by_request.items() if name == key}
        if not within:
            raise unknown_name("--max-error", "error of this run", key, [*known, *by_request])
        lines += [f"{name} is {value:+.2%}, limit {limit:.2%}" for name, value in within.items() if abs(value) > limit]
    return lines


def parse_limits(words: list[str]) -> dict[str, float]:
    """Limits as the command line gives them: `KEY=LIMIT` or `LIMIT`, the limit as `0.02` or `2%`.

    Raises InputError for anything else.
    """
    limits = {}
    for word in words:
        key, _, text = word.rpartition("=")
        try:
            limits[key] = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            expected = "KEY=LIMIT or LIMIT, such as e2e_from_arrival.mean=2% or 0.05"
            raise InputError("--max-error", repr(word), expected) from None
    return limits
