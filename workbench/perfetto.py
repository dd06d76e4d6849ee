"""A window of a run in the Trace Event Format that Perfetto and chrome://tracing open.

A replica is a process, a row of requests that do not overlap is a thread; running, waiting and KV use are counters.
Source of the format: "Trace Event Format" (Google, docs of Catapult); events used: X, C and M.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .excerpt import Window, excerpt, slots
from .frames import read_frame
from .report import FILES, Report
from .timeline import PHASES

_COUNTERS = ("running", "waiting", "kv_cache_usage", "generation_throughput", "prompt_throughput")


def perfetto_trace(folder: Path, window: Window | None = None) -> str:
    """JSON for the requests that overlap `window` (by default the busiest seconds), 2,000 before and 2,000 in it."""
    from pandas import concat

    report = Report.load(folder)
    rows = excerpt(folder, report.data, window)
    inside = concat([rows.earlier, rows.arriving]).sort_values("arrival_s", kind="stable")
    events: list[dict[str, Any]] = []
    for replica, mine in inside.groupby("replica", sort=True):
        pid = int(str(replica)) + 1  # 0 is not a process
        lanes = slots(mine["arrival_s"], mine["ended_s"])
        events.append(_named("process_name", pid, 0, f"replica {replica}"))
        events += [_named("thread_name", pid, lane + 1, f"slot {lane}") for lane in range(max(lanes) + 1)]
        for row, lane in zip(mine.to_dict("records"), lanes, strict=True):
            events += _slices(row, pid, lane + 1)
    series = read_frame(folder / FILES[2])
    near = series[(series["t_s"] < rows.window[1]) & (series["t_s"] >= rows.window[0] - _bin(series))]
    for row in near.to_dict("records"):
        pid, where = int(row["replica"]) + 1, f"engine {int(row['engine'])} "
        events += [
            {"ph": "C", "name": where + name, "pid": pid, "tid": 0, "ts": row["t_s"] * 1e6, "args": {name: row[name]}}
            for name in _COUNTERS
        ]
    note = {"window_s": list(rows.window), "requests": len(inside), "requests_in_window": rows.overlapping}
    names = ("servecast", "plan_fingerprint", "trace_fingerprint", "seed")
    about = {name: report.data["simulation"][name] for name in names}
    return json.dumps({"displayTimeUnit": "ms", "otherData": {**about, **note}, "traceEvents": events}) + "\n"


def _bin(series: Any) -> float:
    times = series["t_s"].unique()
    return float(times[1] - times[0]) if len(times) > 1 else np.inf


def _named(kind: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}


def _slices(row: Mapping[Hashable, Any], pid: int, tid: int) -> Iterator[dict[str, Any]]:
    """The phases that a request came to; the last of them ends with it."""
    names = ("request_id", "prompt_tokens", "output_tokens", "cached_tokens", "preemptions", "status")
    args = {name: row[name] for name in names}
    for name, start, end, _ in PHASES:
        begin, stop = row[start], row[end]
        if np.isnan(begin):
            return
        stop = row["ended_s"] if np.isnan(stop) else stop
        if stop > begin:
            yield {
                "ph": "X", "name": name, "cat": "request", "pid": pid, "tid": tid, "ts": begin * 1e6,
                "dur": (stop - begin) * 1e6, "args": args,
            }  # fmt: skip
