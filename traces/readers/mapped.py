"""Reader for any delimited file, given which column is what: `arrival=ts:ms,prompt_tokens=in,output_tokens=out`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ...errors import InputError, nearest_name, unknown_name
from ..columns import Floats, Ints
from .base import Columns, LabelColumn, joined
from .clock import nanoseconds, since_first
from .rows import read_csv

PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
UNITS = (*PER_SECOND, "iso")
LENGTHS = ("prompt_tokens", "output_tokens")
LABELS = ("request_id", "session", "model", "tenant", "request_class")
TIMES = {"cancel_after": np.inf, "elapsed": np.nan}  # and what an empty cell is
TARGETS = ("arrival", *LENGTHS, *LABELS, "priority", *TIMES)
Mapped = dict[str, tuple[str, str]]


def parse_mapping(text: str, where: str = "--columns") -> dict[str, str]:
    """`arrival=ts:ms,prompt_tokens=in` as {"arrival": "ts:ms", "prompt_tokens": "in"}; `class` means request_class."""
    mapping: dict[str, str] = {}
    for item in text.split(","):
        target, equals, column = item.partition("=")
        target = "request_class" if target.strip() == "class" else target.strip()
        if not equals or not column.strip():
            raise InputError(where, f"{item!r}", "TARGET=COLUMN, separated by commas")
        if target in mapping:
            raise InputError(where, f"{target!r} is given twice", "each target once")
        mapping[target] = column.strip()
    return mapping


def read_mapped(path: Path, text: TextIO, mapping: Mapping[str, str], lengths_only: bool = False) -> Columns:
    """The columns of a file with a header line; it may be separated by commas, semicolons or tabs.

    mapping : target -> column, with an optional unit after a colon for the times (s, ms, us, ns; iso for arrival).
    lengths_only : do without arrivals; all are 0.0.
    """
    for target in mapping:
        if target not in TARGETS:
            raise unknown_name("--columns", "target", target, TARGETS)
    for target in LENGTHS if lengths_only else ("arrival", *LENGTHS):
        if target not in mapping:
            raise InputError("--columns", f"no {target}", f"{target}=COLUMN")
    text.seek(0)
    line = text.readline()
    text.seek(0)
    header, chunks = read_csv(path, text, max(",;\t", key=line.count))
    columns: Mapped = {target: _column(path, target, name, header) for target, name in mapping.items()}

    counts: list[Ints] = []
    parts: dict[str, list[Any]] = {target: [] for target in columns}
    labels = {target: LabelColumn() for target in LABELS if target in columns}
    for rows in chunks:
        for target, (column, unit) in columns.items():
            if target in labels:
                labels[target].add(rows.names(column))
            elif target in LENGTHS:
                parts[target].append(rows.ints(column))
            elif target == "priority":
                parts[target].append(rows.ints(column, 0, signed=True))
            elif target in TIMES:
                parts[target].append(rows.floats(column, TIMES[target]) / PER_SECOND[unit])
            elif unit in ("ns", "iso"):
                counts.append(nanoseconds(rows, column) if unit == "iso" else rows.ints(column))
            else:
                parts[target].append(rows.floats(column) / PER_SECOND[unit])
    prompt: Ints = joined(parts["prompt_tokens"], np.int64)
    time: Floats = joined(parts["arrival"], np.float64) if parts.get("arrival") else np.zeros(len(prompt))
    origin = 0.0
    if counts:
        time, origin = since_first(counts)
    optional = {name: joined(parts[name], np.float64) for name in ("priority", *TIMES) if name in columns}
    return Columns(
        time,
        prompt,
        joined(parts["output_tokens"], np.int64),
        labels={name: column.labels() for name, column in labels.items()},
        numbers=optional,
        origin=origin,
    )


def _column(path: Path, target: str, wanted: str, header: list[str]) -> tuple[str, str]:
    """The column that is meant and its unit; a colon may also belong to the column's own name."""
    name, _, unit = wanted.rpartition(":")
    if wanted in header or not name:
        name, unit = wanted, "s"
    timed = target == "arrival" or target in TIMES
    allowed = UNITS if target == "arrival" else tuple(PER_SECOND) if timed else ()
    if name not in header:
        found = f"--columns: no column {name!r} for {target}"
        raise InputError(str(path), found, "one of " + ", ".join(header), nearest_name(name, header))
    if unit not in (allowed or ("s",)) or (not timed and wanted not in header):
        raise InputError(
            "--columns", f"{target}={wanted}: the unit {unit!r}", f"one of {', '.join(allowed) or 'no unit'}"
        )
    return name, unit
