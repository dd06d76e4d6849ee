"""Readers for recorded agents: spans of concurrent calls, and turns with think times. One row an LLM call.

Sources: Exgentic/agent-llm-traces (spans; CDLA-Permissive-2.0) and semianalysisai/cc-traces-weka-no-subagents (turns;
Apache-2.0), both in the column subset of fnstggl/energy2. Neither says which text calls share: their block ids are made
from the lengths (see `contexts`), so a hit rate of these traces is a model's, not a recorded one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ...errors import InputError
from ..columns import Floats, Ints, Labels
from ..contexts import context_blocks
from ..programs import ParentRows, Programs
from .base import Columns, Reader, check_names, scores
from .rows import read_csv

SPANS = frozenset({"session_id", "span_index", "start_time_s", "end_time_s", "input_tokens", "output_tokens"})
SPANS_ALSO = frozenset({"request_model", "finish_reasons", "is_error"})
TURNS = frozenset({"session_id", "turn_index", "request_arrival_delta_s", "think_time_s", "input_tokens"}) | {
    "output_tokens"
}
TURNS_ALSO = frozenset({"api_time_s", "ttft_s", "block_hashes_count", "block_size_tokens", "model_id", "request_type"})
BLOCK = 64  # tokens of the derived blocks


def _read_spans(path: Path, text: TextIO) -> Columns:
    """Calls with start and end. A call's parents are those that had ended, and that nobody had waited for, when it
    began; the gap is from the last of their ends. Failed calls (0 tokens) are nobody's parents."""
    c = _columns(path, text, SPANS, SPANS_ALSO, "start_time_s", "end_time_s")
    start, end = c["start_time_s"], c["end_time_s"]
    late = np.flatnonzero(end < start)
    if len(late):
        row = int(late[0])
        raise InputError(
            f"{path}: row {row + 1}", f"it ends {start[row] - end[row]:g} s before it starts", "an end after it"
        )
    parents: list[list[int]] = [[] for _ in start]
    gap = np.zeros(len(start))
    served = (c["output_tokens"] > 0) & (c["input_tokens"] > 0)
    for rows in _by_session(c["session_id"], start, served):
        for i, row in enumerate(rows):
            ended = [r for r in rows[:i] if end[r] <= start[row]]
            followed = {p for r in ended for p in parents[r]}
            parents[row] = [r for r in ended if r not in followed]
            if ended:
                gap[row] = start[row] - max(end[r] for r in parents[row])
    return _programs(c, start, parents, gap, c.get("request_model"))


def _read_turns(path: Path, text: TextIO) -> Columns:
    """Turns in a row. Each session has its own zero, so arrivals are those of sessions side by side."""
    c = _columns(path, text, TURNS, TURNS_ALSO, "request_arrival_delta_s", "think_time_s")
    gap = np.maximum(c["think_time_s"], 0.0)
    parents: list[list[int]] = [[] for _ in gap]
    served = (c["output_tokens"] > 0) & (c["input_tokens"] > 0)
    for rows in _by_session(c["session_id"], c["turn_index"], served):
        for before, row in pairwise(rows):
            parents[row] = [before]
        gap[rows[0]] = 0.0
    return _programs(c, c["request_arrival_delta_s"], parents, gap, c.get("model_id"))


def _columns(
    path: Path, text: TextIO, required: frozenset[str], optional: frozenset[str], *times: str
) -> dict[str, Any]:
    header, chunks = read_csv(path, text)
    check_names(path, header, required, optional)
    parts: dict[str, list[Any]] = {}
    for rows in chunks:
        for name in times:
            parts.setdefault(name, []).append(rows.floats(name, 0.0))
        for name in ("input_tokens", "output_tokens", *({"turn_index"} & required)):
            parts.setdefault(name, []).append(rows.ints(name))
        for name in {"session_id", "request_model", "model_id"} & set(header):
            parts.setdefault(name, []).append(np.array(rows.names(name), object))
    return {name: np.concatenate(some) for name, some in parts.items()}


def _by_session(session: Sequence[str], time: Floats | Ints, served: Any) -> list[list[int]]:
    """Rows of each session in order of time, without those that were not served."""
    rows: dict[str, list[int]] = {}
    for row in np.argsort(time, kind="stable").tolist():
        if served[row]:
            rows.setdefault(session[row], []).append(row)
    return list(rows.values())


def _programs(c: dict[str, Any], time: Floats, parents: list[list[int]], gap: Floats, model: Any) -> Columns:
    """The columns in order of time."""
    order = np.argsort(time, kind="stable")
    tool = Labels.of(["tool" if some else None for some in parents])
    programs = Programs(ParentRows.of(parents), gap, tool, np.full(len(gap), np.inf)).take(order)
    labels = {"session": Labels.of(c["session_id"][order].tolist())}
    if model is not None:
        labels["model"] = Labels.of(model[order].tolist())
    prompt, output = c["input_tokens"][order], c["output_tokens"][order]
    blocks = context_blocks(labels["session"].codes.tolist(), prompt, output, BLOCK)
    return Columns(time[order], prompt, output, labels=labels, blocks=blocks, programs=programs)


SPANS_READER = Reader("agent-spans", scores(False, SPANS), _read_spans)
TURNS_READER = Reader("agent-turns", scores(False, TURNS), _read_turns)
