"""A recorded run: the workload that an engine served, its settings, and when each request was answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...configs.plan import Plan
from ...errors import InputError
from ...traces.columns import Floats, Labels, PrefixBlocks
from ...traces.files import open_text
from ...traces.readers.rows import read_csv
from ...traces.table import RequestTable, Source

METRICS = ("ttft_from_arrival", "ttft_from_queue", "tpot", "e2e_from_arrival", "e2e_from_queue")
TIMES = ("queued", "first_token", "last_token")


@dataclass(frozen=True)
class RecordedRun:
    """What an engine did.

    table : the requests in order of arrival. plan : the settings. users : clients of a closed loop; 0: open loop.
    seconds : each of `METRICS` by request, nan where it is not known.
    gaps : seconds between any two consecutive tokens of a request, where they were recorded.
    kv_blocks : that the engine reported. notes : what the record leaves open.
    """

    name: str
    table: RequestTable
    plan: Plan
    seconds: Mapping[str, Floats]
    gaps: Floats | None = None
    users: int = 0
    kv_blocks: int | None = None
    notes: tuple[str, ...] = field(default=())


def read_times(path: Path, id_column: str) -> tuple[list[str], dict[str, Floats]]:
    """Names and columns of a CSV with a row a request: arrival, queued, first_token and last_token in seconds (nan
    where empty), prompt_tokens, output_tokens, and generated where it is there."""
    names: list[str] = []
    parts: dict[str, list[Floats]] = {}
    with open_text(path) as text:
        header, chunks = read_csv(path, text)
        wanted = {name: f"{name}_s" for name in ("arrival", *TIMES)}
        wanted |= {name: name for name in ("prompt_tokens", "output_tokens")}
        wanted |= {"generated": "generated"} if "generated" in header else {}
        for column in (id_column, *wanted.values()):
            if column not in header:
                raise InputError(str(path), f"no column {column!r}", "the columns of a recorded run")
        for rows in chunks:
            names += [str(name) for name in rows.names(id_column)]
            for name, column in wanted.items():
                missing = np.nan if name in TIMES else None
                parts.setdefault(name, []).append(rows.floats(column, missing))
    if not names:
        raise InputError(str(path), "no data rows", "at least one request")
    return names, {name: np.concatenate(chunks_) for name, chunks_ in parts.items()}


def timed(
    name: str, ids: Sequence[str], columns: Mapping[str, Floats], blocks: PrefixBlocks | None
) -> tuple[RequestTable, dict[str, Floats]]:
    """The request table and the seconds of each metric, in order of arrival."""
    order = np.argsort(columns["arrival"], kind="stable")
    c = {key: values[order] for key, values in columns.items()}
    table = RequestTable(
        arrival=c["arrival"],
        prompt_tokens=c["prompt_tokens"].astype(np.int64),
        output_tokens=c["output_tokens"].astype(np.int64),
        request_id=Labels.of([ids[i] for i in order.tolist()]),
        blocks=blocks.take(order) if blocks is not None else None,
        source=Source(name, "recorded run", len(order)),
    )
    return table, metrics(c["arrival"], c["queued"], c["first_token"], c["last_token"], c["output_tokens"])


def metrics(
    arrival: Floats, queued: Floats, first_token: Floats, last_token: Floats, tokens: Floats
) -> dict[str, Floats]:
    """`METRICS` from times in seconds; TPOT is nan for a single token."""
    with np.errstate(divide="ignore", invalid="ignore"):
        tpot = np.where(tokens > 1, (last_token - first_token) / (tokens - 1), np.nan)
    values = (first_token - arrival, first_token - queued, tpot, last_token - arrival, last_token - queued)
    return dict(zip(METRICS, values, strict=True))
