"""Reader for Mooncake's JSON lines: arrivals in ms, lengths, chained ids of 512-token prefix blocks.

Source: kvcache-ai/Mooncake, `FAST25-release/traces`. The files list ceil(n / 512) ids for n prompt tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from .base import Columns, Reader, scores
from .jsonl import read_requests
from .rows import JsonRows, read_json_lines

REQUIRED = frozenset({"timestamp", "input_length", "output_length"})
OPTIONAL = frozenset({"hash_ids"})
BLOCK_SIZE = 512


def _read(path: Path, text: TextIO) -> Columns:
    return read_requests(path, _checked(read_json_lines(path, text)), BLOCK_SIZE, "ceil")


def _checked(chunks: Iterator[JsonRows]) -> Iterator[JsonRows]:
    for rows in chunks:
        rows.check(REQUIRED, OPTIONAL)
        yield rows


READER = Reader("mooncake", scores(True, REQUIRED), _read)
