"""Reader for result files: our own `requests.csv.gz`, or a recorded run, so that a run can be replayed.

Arrivals are taken to the bit, neither shifted nor rounded. Columns of results (latencies and so on) are ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ...errors import InputError
from .base import Columns, Head, LabelColumn, Reader, joined
from .rows import read_csv

REQUIRED = frozenset({"arrival_s", "prompt_tokens", "output_tokens"})
ID = ("request_id", "id")  # ours, and the recorded runs'
LABELS = {
    "session": "session",
    "model": "model",
    "tenant": "tenant",
    "class": "request_class",
    "request_class": "request_class",
}


def _score(head: Head) -> float:
    """A result file has all our columns; anything less needs a column mapping."""
    return 1.0 if not head.is_json and set(head.names) >= REQUIRED and set(ID) & set(head.names) else 0.0


def _read(path: Path, text: TextIO) -> Columns:
    header, chunks = read_csv(path, text)
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise InputError(str(path), f"the column {repeated[0]!r} is there twice", "each column once")
    wanted = {column: name for column, name in LABELS.items() if column in header}
    wanted[next(column for column in ID if column in header)] = "request_id"
    labels = {column: LabelColumn() for column in wanted}
    parts: dict[str, list[Any]] = {"arrival_s": [], "prompt_tokens": [], "output_tokens": [], "priority": []}
    for rows in chunks:
        parts["arrival_s"].append(rows.floats("arrival_s"))
        parts["prompt_tokens"].append(rows.ints("prompt_tokens"))
        parts["output_tokens"].append(rows.ints("output_tokens"))
        if "priority" in header:
            parts["priority"].append(rows.ints("priority", 0, signed=True))
        for column, names in labels.items():
            names.add(rows.names(column))
    return Columns(
        joined(parts["arrival_s"], np.float64),
        joined(parts["prompt_tokens"], np.int64),
        joined(parts["output_tokens"], np.int64),
        labels={wanted[column]: names.labels() for column, names in labels.items()},
        numbers={"priority": joined(parts["priority"], np.int64)} if "priority" in header else {},
        exact=True,
    )


READER = Reader("results", _score, _read)
