"""Reader for our own JSON lines: Mooncake's keys plus exact arrivals, sessions, labels and patience.

The first line may be a header `{"servecast_trace": 1, "block_size": 512, "block_rule": "ceil", "origin": 0.0}`;
what it leaves out has these values, and `block_scope` says whether hash_ids cover the "prompt" or the whole "context".
`parents` lists the request ids that must finish before a row is sent, `gap` seconds later; `tool` and `deadline` are
those of `programs.Programs`. `arrival` (seconds) wins over `timestamp` (ms) and is taken to the bit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from ...errors import InputError, nearest_name
from .base import Columns, Head, Reader
from .jsonl import LABELS, LENGTHS, NUMBERS, read_requests
from .rows import JsonRows, read_json_lines

MARK = "servecast_trace"
HEADER = {MARK: 1, "block_size": 512, "block_rule": "ceil", "block_scope": "prompt", "origin": 0.0}
REQUIRED = frozenset(LENGTHS)
OPTIONAL = frozenset({*NUMBERS, *LABELS, "priority", "hash_ids", "parents", "tool"})


def _score(head: Head) -> float:
    """1.1 beats Mooncake's reader: the header, or Mooncake's lengths with keys that only we have."""
    if not head.is_json:
        return 0.0
    ours = MARK in head.names or set(head.names) & (OPTIONAL - {"timestamp", "hash_ids"})
    return 1.1 if ours else len(REQUIRED & set(head.names)) / 4


def _read(path: Path, text: TextIO) -> Columns:
    first = text.readline()
    if f'"{MARK}"' in first:
        header, lines = _header(path, first), iter(text)
    else:
        header, lines = HEADER, chain([first], text)
    columns = read_requests(path, _checked(read_json_lines(path, lines)), header["block_size"], header["block_rule"])
    if columns.blocks is not None:
        columns = replace(columns, blocks=replace(columns.blocks, scope=header["block_scope"]))
    return replace(columns, origin=float(header["origin"]))


def _checked(chunks: Iterator[JsonRows]) -> Iterator[JsonRows]:
    for rows in chunks:
        rows.check(REQUIRED, OPTIONAL)
        yield rows


def _header(path: Path, line: str) -> dict[str, Any]:
    where = f"{path}: header"
    try:
        given = json.loads(line)
    except ValueError as error:
        raise InputError(where, f"not JSON ({error})", "a JSON object") from None
    for key in given:
        if key not in HEADER:
            near = nearest_name(key, HEADER)
            raise InputError(where, f"unknown key {key!r}", f"one of {', '.join(HEADER)}", near)
    header = HEADER | given
    checks = {
        MARK: (header[MARK] == 1, "version 1"),
        "block_size": (type(header["block_size"]) is int and header["block_size"] > 0, "a positive whole number"),
        "block_rule": (header["block_rule"] in ("ceil", "floor"), "ceil or floor"),
        "block_scope": (header["block_scope"] in ("prompt", "context"), "prompt or context"),
        "origin": (type(header["origin"]) in (int, float), "a number of seconds"),
    }
    for key, (right, expected) in checks.items():
        if not right:
            raise InputError(where, f"{key} is {header[key]!r}", expected)
    return header


READER = Reader("servecast", _score, _read)
