"""Reader for RAGPulse: requests of a retrieval service by the pieces of their prompts (flashserve/RAGPulse, MIT).

The trace names pieces by id; five files beside it give their lengths. Times are text in whole seconds, in order but
for one inversion (read it with `sort`). The pieces are 6 to 12 tokens short of `input_length`: those tokens are a
prompt's own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ...errors import InputError
from ..chunks import Chunks, chunk_blocks
from ..files import open_text
from .base import Columns, Head, LabelColumn, Reader, joined
from .rows import read_json_lines

REQUIRED = frozenset({"timestamp", "input_length", "output_length", "hash_ids", "session_id"})
KINDS = {  # key of hash_ids, in the order of a prompt -> the file with the lengths, and its key
    "sys_prompt": ("1_sys_prompt", "sys_prompt_id"), "passages_ids": ("2_passages", "passage_id"),
    "history": ("3_history", "history_id"), "web_search": ("5_web_search", "web_search_id"),
    "user_input": ("4_user_input", "user_input_id"),
}  # fmt: skip
BLOCK = 64  # tokens of the derived prefix blocks


def _score(head: Head) -> float:
    """1.2 beats Mooncake's reader, whose keys are here too."""
    return 1.2 if head.is_json and set(head.names) >= REQUIRED else 0.0


def _read(path: Path, text: TextIO) -> Columns:
    lengths = [_lengths(path, *KINDS[kind]) for kind in KINDS]
    times: list[Any] = []
    parts: dict[str, list[Any]] = {"input_length": [], "output_length": []}
    session = LabelColumn()
    rows_of_pieces: list[list[tuple[int, int, int]]] = []
    for rows in read_json_lines(path, text):
        rows.check(REQUIRED, frozenset())
        for i, value in enumerate(rows.values("timestamp")):
            try:
                times.append(float(value))
            except (TypeError, ValueError):
                raise rows.error(i, f"timestamp is {value!r}", "seconds") from None
        for name, some in parts.items():
            some.append(rows.ints(name))
        session.add(rows.names("session_id"))
        for i, ids in enumerate(rows.values("hash_ids")):
            pieces = []
            for number, kind in enumerate(KINDS):
                for name in ids.get(kind, []) if isinstance(ids, dict) else ["?"]:
                    if name not in lengths[number]:
                        raise rows.error(i, f"hash_ids.{kind} names {name!r}", f"an id of {KINDS[kind][0]}.jsonl")
                    pieces.append((int(name), lengths[number][name], number))
            rows_of_pieces.append(pieces)
    prompt = joined(parts["input_length"], np.int64)
    chunks = Chunks.of(rows_of_pieces, tuple(KINDS))
    return Columns(
        np.array(times), prompt, joined(parts["output_length"], np.int64), labels={"session": session.labels()},
        blocks=chunk_blocks(chunks, prompt, BLOCK), chunks=chunks,
    )  # fmt: skip


def _lengths(path: Path, stem: str, key: str) -> dict[int, int]:
    """Tokens by id, out of a file beside the trace."""
    beside = next((p for p in (path.parent / f"{stem}.jsonl.gz", path.parent / f"{stem}.jsonl") if p.exists()), None)
    if beside is None:
        raise InputError(str(path), f"no {stem}.jsonl beside it", "the five files of RAGPulse with the lengths")
    with open_text(beside) as text:
        rows = [json.loads(line) for line in text if line.strip()]
    try:
        return {int(row[key]): int(row["token_length"]) for row in rows}
    except (KeyError, TypeError, ValueError):
        expected = f"{key} and token_length in every row"
        raise InputError(str(beside), "a row without an id or a length", expected) from None


READER = Reader("ragpulse", _score, _read)
