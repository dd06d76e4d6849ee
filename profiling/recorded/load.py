"""Loads a recorded run of any known format.

Formats: our own `requests.csv.gz` (or the folder that holds it), the folders of recorded vLLM runs (`folder`), the
detailed JSON of `vllm bench serve` (`bench`), and OpenTelemetry spans (`otel`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...configs.plan import Plan
from ...errors import InputError
from . import bench, folder, otel
from .run import TIMES, RecordedRun, read_times, timed


def load_run(path: Path, plan: Plan | None = None) -> RecordedRun:
    """The recorded run at `path`.

    plan : the settings, needed where the record does not hold them; where it does, they are replaced.

    Raises InputError for a path that holds no recorded run, or one without settings.
    """
    if folder.fits(path):
        return folder.read(path, plan)
    results = path / "requests.csv.gz" if path.is_dir() else path
    if path.is_dir() and not results.is_file():
        expected = "run.json beside real_requests.csv, or requests.csv.gz of `servecast simulate --out`"
        raise InputError(str(path), "no recorded run in it", expected)
    if plan is None:
        raise InputError("--plan", "missing", f"the plan that {path.name} was served with: it holds no settings itself")
    if otel.fits(path):
        return otel.read_run(path, plan)
    if bench.fits(path):
        return bench.read(path, plan)
    return _results(results, plan)


def _results(path: Path, plan: Plan) -> RecordedRun:
    """Our own result file."""
    ids, columns = read_times(path, "request_id")
    finished = np.isfinite(columns["last_token"]) & (columns["generated"] == columns["output_tokens"])
    for name in TIMES:
        columns[name][~finished] = np.nan
    table, seconds = timed(path.name, ids, columns, None)
    return RecordedRun(path.parent.name or path.name, table, plan, seconds)
