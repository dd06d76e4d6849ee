"""Reader for BurstGPT's CSV files, all layouts: 6 columns, or 8 with session and elapsed time.

Source: HPMLL/BurstGPT (CC-BY-4.0). Timestamp counts seconds from the local midnight of day 1; a response of
0 tokens is a failed request; sessions are given on conversation rows only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TextIO

import numpy as np

from .base import Columns, LabelColumn, Reader, check_names, joined, scores
from .rows import read_csv

TIME, PROMPT, OUTPUT, TOTAL = "Timestamp", "Request tokens", "Response tokens", "Total tokens"
MODEL, LOG_TYPE, SESSION, ELAPSED = "Model", "Log Type", "Session ID", "Elapsed time"
REQUIRED = frozenset({TIME, MODEL, PROMPT, OUTPUT, TOTAL, LOG_TYPE})
OPTIONAL = frozenset({SESSION, ELAPSED})


def _read(path: Path, text: TextIO) -> Columns:
    header, chunks = read_csv(path, text)
    check_names(path, header, REQUIRED, OPTIONAL)
    wanted = {SESSION: "session", MODEL: "model", LOG_TYPE: "request_class"}
    labels = {column: LabelColumn() for column in wanted if column in header}
    parts: dict[str, list[Any]] = {TIME: [], PROMPT: [], OUTPUT: [], ELAPSED: []}
    for rows in chunks:
        parts[TIME].append(rows.floats(TIME))
        parts[PROMPT].append(rows.ints(PROMPT))
        parts[OUTPUT].append(rows.ints(OUTPUT))
        if ELAPSED in header:
            parts[ELAPSED].append(rows.floats(ELAPSED, np.nan))
        for column, names in labels.items():
            names.add(rows.names(column))
    return Columns(
        joined(parts[TIME], np.float64),
        joined(parts[PROMPT], np.int64),
        joined(parts[OUTPUT], np.int64),
        labels={wanted[column]: names.labels() for column, names in labels.items()},
        numbers={"elapsed": joined(parts[ELAPSED], np.float64)} if ELAPSED in header else {},
    )


READER = Reader("burstgpt", scores(False, REQUIRED), _read)
