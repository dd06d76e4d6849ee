"""Writes a run's files: complete or not at all, and the same bytes for the same run."""

from __future__ import annotations

import gzip
import json
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .records import COMPONENTS, End
from .run import Run
from .timeseries import time_series

_GZIP_LEVEL = 1  # the files are numbers: more effort saves little and costs more than the simulation


def prepare_folder(folder: Path) -> None:
    """Make sure that `folder` can be written to, before anything long begins."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".servecast"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(str(folder), f"cannot be written ({error.strerror})", "a folder that can be written to") from None


def write_results(run: Run, report: dict[str, Any], folder: Path) -> None:
    """`report.json`, `requests.csv.gz` and `timeseries.csv.gz` in `folder`."""
    write_json(report, folder / "report.json")
    write_requests(run, folder / "requests.csv.gz")
    write_time_series(run, folder / "timeseries.csv.gz")


def write_json(data: dict[str, Any], path: Path) -> None:
    """JSON without NaN: a figure that does not exist is null."""
    text = json.dumps(_without_nan(data), indent=1, allow_nan=False) + "\n"
    _replace(path, lambda file: file.write(text.encode()))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _replace(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write beside `path` under a temporary name, then put it in place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            write(file)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(str(path), f"cannot be written ({error.strerror})", "room and permission") from None
    finally:
        temporary.unlink(missing_ok=True)


def _write_rows(path: Path, header: str, lines: Iterable[str]) -> None:
    def write(file: IO[bytes]) -> None:
        with gzip.GzipFile("", "wb", _GZIP_LEVEL, file, mtime=0) as packed:
            packed.write((header + "\n").encode())
            for text in lines:
                packed.write(text.encode())

    _replace(path, write)


# -- requests ----------------------------------------------------------------------------------------------------

_TIMES = ("arrival", "queued", "scheduled", "first_token", "last_token", "ended")
_LABELS = ("session", "model", "tenant", "request_class")
_BATCH = 8192  # rows made into text at a time


def nanoseconds(ticks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ticks as the nearest nanoseconds, in whole numbers throughout."""
    whole, part = ticks >> 36, ticks & ((1 << 36) - 1)
    return whole * 1_000_000_000 + ((part * 1_953_125 + (1 << 26)) >> 27)  # 10**9 / 2**36 = 5**9 / 2**27


def _seconds(ns: NDArray[np.int64]) -> list[str]:
    """Fixed-point seconds with nine decimals; empty for times that never came (negative)."""
    whole, part = np.divmod(ns, 1_000_000_000)
    return [f"{w}.{p:09d}" if w >= 0 else "" for w, p in zip(whole.tolist(), part.tolist(), strict=True)]


def write_requests(run: Run, path: Path) -> None:
    """One row a request in order of submission. The components sum to `ended_s - arrival_s` exactly."""
    c = run.recorder.requests.columns()
    order = np.argsort(c["index"], kind="stable")
    table = run.table
    labels = {name: getattr(table, name) for name in _LABELS if getattr(table, name) is not None}
    header = ["request_id", *labels, "replica", "status", "attempt", "prompt_tokens", "output_tokens",
              "generated_tokens", "cached_tokens", "preemptions"]  # fmt: skip
    header += [f"{name}_s" for name in (*_TIMES, *COMPONENTS)]

    def lines() -> Iterable[str]:
        for at in range(0, len(order), _BATCH):
            rows = order[at : at + _BATCH]
            part = {name: column[rows] for name, column in c.items()}
            yield "".join(_request_lines(part, run, labels))

    _write_rows(path, ",".join(header), lines())


def _request_lines(c: dict[str, NDArray[np.int64]], run: Run, labels: dict[str, Any]) -> list[str]:
    ids = run.table.request_id
    rows = c["row"]
    columns: list[Iterable[object]] = [
        rows.tolist() if ids is None else [ids.names[code] for code in ids.codes[rows].tolist()]
    ]
    for label in labels.values():
        names = [*(_quoted(name) for name in label.names), ""]  # a code of -1 is no name
        columns.append([names[code] for code in label.codes[rows].tolist()])
    status = [end.name.lower() for end in End]
    columns += [c["replica"].tolist(), [status[e] for e in c["end"].tolist()]]
    columns += [
        c[name].tolist()
        for name in ("attempt", "prompt_tokens", "output_tokens", "generated", "cached_tokens", "preemptions")
    ]
    columns += [_seconds(np.where(c[name] < 0, -1, nanoseconds(np.maximum(c[name], 0)))) for name in _TIMES]
    # Round the running sum of the components, not each of them, so that they still add up in nanoseconds.
    reached = c["arrival"]
    before = nanoseconds(reached)
    for name in COMPONENTS:
        reached = reached + c[name]
        after = nanoseconds(reached)
        columns.append(_seconds(after - before))
        before = after
    pattern = ",".join(["%s"] * len(columns)) + "\n"
    return [pattern % row for row in zip(*columns, strict=True)]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if any(sign in name for sign in ',"\n\r') else name


# -- time series -------------------------------------------------------------------------------------------------


def write_time_series(run: Run, path: Path) -> None:
    """One row a bin and engine."""
    columns = time_series(run)
    formats = {"t": "%.1f", "replica": "%d", "engine": "%d", "kv_cache_usage": "%.4f"}
    pattern = ",".join(formats.get(name, "%.3f") for name in columns) + "\n"
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    header = ",".join("t_s" if name == "t" else name for name in columns)
    _write_rows(path, header, [pattern % row for row in rows])
