"""Writes a run's files: complete or not at all, and the same bytes for the same run."""

from __future__ import annotations

import gzip
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ..records import COMPONENTS, TIMES, End
from ..run import Run
from .programs import COLUMNS, program_rows
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
        raise InputError(
            str(folder), f"cannot be written ({error.strerror})", "a folder that can be written to"
        ) from None


def write_results(run: Run, report: dict[str, Any], folder: Path) -> None:
    """`report.json`, `requests.csv.gz` and `timeseries.csv.gz` in `folder`; of programs, `programs.csv.gz` too."""
    write_json(report, folder / "report.json")
    write_requests(run, folder / "requests.csv.gz")
    write_time_series(run, folder / "timeseries.csv.gz")
    if run.table.programs is not None:
        write_programs(run, folder / "programs.csv.gz")


def write_json(data: dict[str, Any], path: Path) -> None:
    """A file of `json_text`."""
    write_bytes(f"{json_text(data)}\n".encode(), path)


def write_bytes(data: bytes, path: Path) -> None:
    """A file with these bytes, or none."""
    replace_file(path, lambda file: file.write(data))


def json_text(data: dict[str, Any]) -> str:
    """JSON without NaN: a figure that does not exist is null."""
    return json.dumps(_without_nan(data), indent=1, allow_nan=False)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def replace_file(path: Path, write: Callable[[IO[bytes]], object]) -> None:
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

    replace_file(path, write)


# -- requests ----------------------------------------------------------------------------------------------------

LABELS = ("session", "model", "tenant", "request_class")
_BATCH = 8192  # rows made into text at a time


def nanoseconds(ticks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ticks as the nearest nanoseconds, in whole numbers throughout."""
    whole, part = ticks >> 36, ticks & ((1 << 36) - 1)
    return whole * 1_000_000_000 + ((part * 1_953_125 + (1 << 26)) >> 27)  # 10**9 / 2**36 = 5**9 / 2**27


def write_requests(run: Run, path: Path) -> None:
    """One row a request in order of submission; times in seconds with nine decimals, empty where they never came.

    The components sum to `e2el_s` exactly. Latencies are of finished requests, as `vllm bench serve` defines them.
    """
    c = run.recorder.requests.columns()
    order = np.argsort(c["index"], kind="stable")
    labels = {name: getattr(run.table, name) for name in LABELS if getattr(run.table, name) is not None}
    priority = [] if run.table.priority is None else ["priority"]
    header = ["request_id", *labels, *priority, "replica", "status", *COUNTS]
    header += time_columns()

    def lines() -> Iterable[str]:
        for at in range(0, len(order), _BATCH):
            rows = order[at : at + _BATCH]
            yield _request_lines({name: column[rows] for name, column in c.items()}, run, labels)

    _write_rows(path, ",".join(header), lines())


COUNTS = ("attempt", "prompt_tokens", "output_tokens", "generated", "cached_tokens", "preemptions")
_LATENCIES = ("ttft", "tpot", "e2el")


def time_columns() -> list[str]:
    """The names of the columns that `fixed_point_columns` gives, in its order."""
    return [f"{name}_s" for name in (*TIMES, *_LATENCIES, *COMPONENTS)]


def _request_lines(c: dict[str, NDArray[np.int64]], run: Run, labels: dict[str, Any]) -> str:
    ids = run.table.request_id
    rows = c["row"]
    status = [end.name.lower() for end in End]
    columns: list[list[Any]] = [
        rows.tolist() if ids is None else [_quoted(ids.names[code]) for code in ids.codes[rows].tolist()]
    ]
    for label in labels.values():
        names = [*(_quoted(name) for name in label.names), ""]  # a code of -1 is no name
        columns.append([names[code] for code in label.codes[rows].tolist()])
    if run.table.priority is not None:
        columns.append(run.table.priority[rows].tolist())
    pattern = ["%s"] * len(columns)

    def put(form: str, *parts: NDArray[Any]) -> None:
        if all((part == part[0]).all() for part in parts):  # such as a component that nobody has: format it once
            pattern.append(form % tuple(part[0] for part in parts))
        else:
            pattern.append(form)
            columns.extend(part.tolist() for part in parts)

    put("%d", c["replica"])
    put("%s", np.array(status)[c["end"]])
    for name in COUNTS:
        put("%d", c[name])
    for ns, known in fixed_point_columns(c):
        whole, part = np.divmod(ns, 1_000_000_000)
        if known.all():
            put("%d.%09d", whole, part)
        else:
            values = zip(whole.tolist(), part.tolist(), known.tolist(), strict=True)
            put("%s", np.array([f"{w}.{p:09d}" if there else "" for w, p, there in values]))
    line = ",".join(pattern) + "\n"
    return "".join([line % row for row in zip(*columns, strict=True)])


def fixed_point_columns(c: dict[str, NDArray[np.int64]]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """Times, latencies and components in whole nanoseconds, each with where it is known."""
    at = {name: nanoseconds(np.maximum(c[name], 0)) for name in TIMES}
    for name in TIMES:
        yield at[name], c[name] >= 0
    finished = c["end"] == End.FINISHED
    yield at["first_token"] - at["arrival"], finished
    gaps = np.maximum(c["generated"] - 1, 1)
    yield (at["last_token"] - at["first_token"] + gaps // 2) // gaps, finished & (c["generated"] > 1)
    yield at["ended"] - at["arrival"], finished
    # Round the running sum of the components, not each of them, so that they still add up in nanoseconds.
    everywhere = np.ones(len(finished), bool)
    reached, before = c["arrival"], at["arrival"]
    for name in COMPONENTS:
        reached = reached + c[name]
        after = nanoseconds(reached)
        yield after - before, everywhere
        before = after


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if any(sign in name for sign in ',"\n\r') else name


def write_programs(run: Run, path: Path) -> None:
    """One row a program, see `programreport`; empty where a figure does not exist."""
    rows = zip(*(column.tolist() for column in program_rows(run).values()), strict=True)
    _write_rows(path, ",".join(COLUMNS), (",".join(map(_cell, row)) + "\n" for row in rows))


def _cell(value: str | int | float) -> str:
    if isinstance(value, float):
        return f"{value:.9f}" if math.isfinite(value) else ""
    return _quoted(value) if isinstance(value, str) else str(value)


# -- time series -------------------------------------------------------------------------------------------------


def write_time_series(run: Run, path: Path) -> None:
    """One row a bin and engine."""
    columns = time_series(run)
    formats = {"t": "%.1f", "replica": "%d", "engine": "%d", "kv_cache_usage": "%.4f"}
    pattern = ",".join(formats.get(name, "%.3f") for name in columns) + "\n"
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    header = ",".join("t_s" if name == "t" else name for name in columns)
    _write_rows(path, header, [pattern % row for row in rows])
