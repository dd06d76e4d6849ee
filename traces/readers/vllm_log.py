"""Reader for the log of a vLLM server that was started with `--enable-log-requests --enable-log-outputs`.

Lengths are counted in the lists of token ids that such a log has: of prompts in "Received request ...", of answers in
"Generated response ..." (of a stream, over its deltas). The server must not have cut them (`--max-log-len`). Stamps are
whole seconds without a year; `--jitter` spreads them. A request without a response counts as failed.

Source: vllm-project/vllm `vllm/entrypoints/logger.py` (commit 01ff1262 and later), `vllm/logging_utils`.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import TextIO

import numpy as np

from ...errors import InputError
from ..columns import Labels
from .base import Columns, Head, Reader

_STAMP = re.compile(r"\b(?:DEBUG|INFO|WARNING|ERROR) (\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)\b")
_RECEIVED = re.compile(r"\] Received request (\S+): ")
_GENERATED = re.compile(r"\] Generated response (\S+?)( \(streaming (?:delta|complete)\))?: ")
_IDS = r"{}: (None|\[[^\]]*\])"
_HALF_YEAR = timedelta(days=180)


def _read(path: Path, text: TextIO) -> Columns:
    requests: dict[str, tuple[datetime, int]] = {}
    answers: dict[str, int] = {}
    streamed: dict[str, int] = {}
    last = datetime(2000, 1, 1)  # a leap year: every day of a log exists in it
    for row, line in enumerate(text, 1):
        received = _RECEIVED.search(line)
        if received:
            last = _time(line, last, f"{path}: row {row}")
            tokens = _count(line, "prompt_token_ids")
            if tokens is None:
                expected = "lists of token ids: log at DEBUG, or trace requests with OpenTelemetry (`otel`)"
                raise InputError(f"{path}: row {row}", "no prompt_token_ids", expected)
            requests[received[1]] = last, tokens
            continue
        generated = _GENERATED.search(line)
        if generated:
            name, tokens = generated[1], _count(line, "output_token_ids") or 0
            if "delta" in (generated[2] or ""):
                streamed[name] = streamed.get(name, 0) + tokens
            else:
                answers[name] = answers.get(name, 0) + tokens
    if not requests:
        raise InputError(str(path), "no line `Received request`", "a log with --enable-log-requests")
    begin = next(iter(requests.values()))[0]
    outputs = [max(answers.get(name, 0), streamed.get(name, 0)) for name in requests]
    return Columns(
        np.array([(at - begin).total_seconds() for at, _ in requests.values()]),
        np.array([tokens for _, tokens in requests.values()], np.int64),
        np.array(outputs, np.int64),
        labels={"request_id": Labels.of(list(requests))},
    )


def _time(line: str, last: datetime, where: str) -> datetime:
    """The stamp of a line, in the year of the line before or, after New Year's Eve, in the next."""
    stamp = _STAMP.search(line)
    if not stamp:
        raise InputError(where, "no time stamp", "vLLM's own format, such as `INFO 07-25 02:41:21 [logger.py:41] ...`")
    month, day, hour, minute, second = map(int, stamp.groups())
    try:
        found = datetime(last.year, month, day, hour, minute, second)
        return found.replace(year=last.year + 1) if last - found > _HALF_YEAR else found
    except ValueError as error:
        raise InputError(where, f"{stamp[0]} ({error})", "a day and a time") from None


def _count(line: str, key: str) -> int | None:
    """How many ids the last list under `key` has: the text of a prompt comes before it."""
    found = re.findall(_IDS.format(key), line)
    if not found or found[-1] == "None":
        return None
    inside = found[-1][1:-1].strip()
    return inside.count(",") + 1 if inside else 0


def _score(head: Head) -> float:
    return 0.9 if not head.is_json and _STAMP.search(head.line) else 0.0


READER = Reader("vllm_log", _score, _read)
