"""One side of a comparison: a simulated run, its files, or a recorded run of a real engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..profiling.recorded.load import load_run
from ..profiling.recorded.run import RecordedRun
from ..traces.columns import Floats, Ints
from .report import FILES, Report

LATENCIES = ("ttft", "tpot", "e2el")
_RECORDED = {"ttft": "ttft_from_arrival", "tpot": "tpot", "e2el": "e2e_from_arrival"}


@dataclass(frozen=True)
class Side:
    """Requests by id, in order of arrival.

    arrival : seconds. prompt_tokens : int64. seconds : of each of `LATENCIES`, nan where a request has none or did not
    finish. data : `report.json` of a simulated run. warmup : seconds of arrivals that its statistics leave out.
    """

    name: str
    ids: Sequence[str]
    arrival: Floats
    prompt_tokens: Ints
    seconds: dict[str, Floats]
    data: dict[str, Any] | None = None

    @property
    def trace(self) -> str | None:
        """The fingerprint of the trace, where it is known."""
        return str(self.data["simulation"]["trace_fingerprint"]) if self.data else None

    @property
    def warmup(self) -> float:
        """Seconds of arrivals that the statistics leave out."""
        return float(self.data["simulation"]["warmup_s"]) if self.data else 0.0


def side_of(run: Report | RecordedRun | str | Path) -> Side:
    """From a report, a folder of `servecast simulate --out`, or a recorded run as `servecast validate` reads it."""
    if isinstance(run, Report):
        return _simulated(run, run.name)
    if isinstance(run, RecordedRun):
        return _recorded(run)
    path = Path(run)
    if not path.exists():
        raise InputError(
            str(path), "no such file or folder", "results of `servecast simulate --out`, or a recorded run"
        )
    if (path / FILES[0]).is_file():
        return _simulated(Report.load(path), path.name)
    from ..configs.plan import load_plan

    return _recorded(load_run(path, load_plan("default")))  # the settings of a record are not compared


def named_apart(sides: Sequence[Side], names: Sequence[str] | None = None) -> list[Side]:
    """The sides under the given names, or numbered where two have the same. Raises `InputError` for a wrong number."""
    if names is not None:
        if len(names) != len(sides):
            raise InputError("names", f"{len(names)} names for {len(sides)} runs", "one for each run")
        return [replace(side, name=name) for side, name in zip(sides, names, strict=True)]
    all_names = [side.name for side in sides]
    numbered = [f"{name} ({i + 1})" if all_names.count(name) > 1 else name for i, name in enumerate(all_names)]
    return [replace(side, name=name) for side, name in zip(sides, numbered, strict=True)]


def _simulated(report: Report, name: str) -> Side:
    rows = report.requests.drop_duplicates("request_id", keep="last")  # the last attempt of a client
    rows = rows.sort_values("arrival_s", kind="stable")
    seconds = {metric: rows[f"{metric}_s"].to_numpy(float) for metric in LATENCIES}
    lengths = rows["prompt_tokens"].to_numpy(np.int64)
    return Side(name, rows["request_id"].tolist(), rows["arrival_s"].to_numpy(float), lengths, seconds, report.data)


def _recorded(run: RecordedRun) -> Side:
    table = run.table
    ids = [str(i) for i in (range(len(table)) if table.request_id is None else table.request_id)]
    seconds = {metric: run.seconds[key] for metric, key in _RECORDED.items()}
    return Side(run.name, ids, table.arrival, table.prompt_tokens, seconds)
