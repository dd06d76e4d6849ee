"""Reads a recorded trace of any known format, recognised by content."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from ..errors import InputError
from .assemble import assemble
from .files import open_text
from .readers import READERS
from .readers.base import Head, Reader
from .readers.mapped import read_mapped
from .table import RequestTable

HEAD = 65_536  # characters looked at to recognise a file


def read(
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    keep_failed: bool = False,
    sort: bool = False,
    jitter_seed: int | None = None,
    lengths_only: bool = False,
) -> RequestTable:
    """The request table of a recorded trace; parameters as `load` has them.

    lengths_only : a mapping may leave out the arrivals.
    """
    with open_text(path) as text:
        head = _head(path, text)
        text.seek(0)
        if columns is None:
            reader = _recognise(path, head)
            format, raw = reader.name, reader.read(path, text)
        elif head.is_json:
            raise InputError(str(path), "columns given for JSON lines", "a delimited file with a header line")
        else:
            format, raw = "mapped", read_mapped(path, text, columns, lengths_only)
    return assemble(raw, path, format, keep_failed=keep_failed, sort=sort, jitter_seed=jitter_seed)


def _recognise(path: Path, head: Head) -> Reader:
    """The reader that fits the file's head best."""
    score, best = max(((reader.score(head), reader) for reader in READERS), key=lambda pair: pair[0])
    if score < 0.5:
        known = ", ".join(reader.name for reader in READERS)
        found = f"no known trace format (first line {head.line.strip()[:60]!r})"
        raise InputError(str(path), found, f"one of {known}, or any CSV with a --columns mapping")
    return best


def _head(path: Path, text: TextIO) -> Head:
    line = text.readline(HEAD * 16)
    while line and not line.strip():
        line = text.readline(HEAD * 16)
    if not line:
        raise InputError(str(path), "the file is empty", "a trace")
    if "\0" in line:
        raise InputError(str(path), "binary data", "a text file, plain or gzip")
    if not line.lstrip().startswith(("{", "[")):
        return Head(line, False, tuple(name.strip() for name in line.split(",")))
    try:
        first = json.loads(line)
    except ValueError:
        first = None
    if not isinstance(first, dict):
        found = f"the first line is no JSON object: {line.strip()[:40]!r}"
        raise InputError(f"{path}: row 1", found, "one JSON object a line")
    return Head(line, True, tuple(first))
