"""Judge a reader's raw columns and make the request table: order, jitter, failures, duplicates, blocks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .columns import Ints, PrefixBlocks
from .programs import check_programs
from .readers.base import Columns
from .streams import Stream
from .table import RequestTable, Source

NANOSECONDS = 9  # decimals kept of an arrival time, so that its text gives the same float back


def assemble(
    columns: Columns,
    path: Path,
    format: str,
    *,
    keep_failed: bool = False,
    sort: bool = False,
    jitter_seed: int | None = None,
) -> RequestTable:
    """The table of one file.

    columns : as read, in file order.
    keep_failed : keep rows that cannot be served (0 response or 0 prompt tokens) instead of dropping them.
    sort : order rows by time (stably) and count the inversions, instead of refusing them.
    jitter_seed : spread whole-second stamps inside their second with draws from this seed's stream.

    The first row in time becomes arrival 0.0, unless the times are `exact` arrivals or the first second is
    jittered; `source.origin` is the time that became 0.0. Raises `InputError` naming file and row.
    """
    time, n = columns.time, len(columns.time)
    if n == 0:
        raise InputError(str(path), "no data rows", "at least one request")
    inversions = np.flatnonzero(np.diff(time) < 0)
    if len(inversions) and not sort:
        row = int(inversions[0]) + 1
        found = f"time {float(time[row])!r} s after {float(time[row - 1])!r} s"
        raise InputError(
            f"{path}: row {row + 1}", found, "non-decreasing times (or sort=True, on the command line --sort)"
        )
    if columns.exact and float(time.min()) < 0:
        row = int(np.argmax(time < 0))
        raise InputError(f"{path}: row {row + 1}", f"arrival {float(time[row])!r} s", "0 s or later")
    patience = columns.numbers.get("cancel_after")
    if patience is not None and float(patience.min()) < 0:
        row = int(np.argmax(patience < 0))
        raise InputError(f"{path}: row {row + 1}", f"cancel_after {float(patience[row])!r} s", "0 s or later")
    if columns.blocks is not None:
        check_blocks(columns.blocks, columns.prompt_tokens, columns.output_tokens, path)
    if columns.programs is not None:
        check_programs(columns.programs, time, columns.labels.get("session"), str(path))

    zero = 0.0 if columns.exact else float(time.min())
    arrival = time if columns.exact else np.round(time - zero, NANOSECONDS)
    if jitter_seed is not None:
        fractional = np.flatnonzero(time != np.floor(time))
        if len(fractional):
            row = int(fractional[0])
            found = f"time {float(time[row])!r} s has a fraction, but jitter was asked for"
            raise InputError(f"{path}: row {row + 1}", found, "whole-second stamps, or no jitter")
        arrival = np.round(arrival + Stream(jitter_seed, "trace/jitter").uniform(n), NANOSECONDS)
    failed = (columns.output_tokens == 0) | (columns.prompt_tokens == 0)
    if failed.all() and not keep_failed:
        raise InputError(str(path), f"all {n} rows failed (0 response tokens)", "a request that was answered")
    source = Source(
        name=path.name,
        format=format,
        rows=n,
        failed=int(failed.sum()),
        dropped=0 if keep_failed else int(failed.sum()),
        reordered=len(inversions),
        duplicates=_duplicates(columns),
        origin=columns.origin + zero,
    )
    order = np.argsort(arrival, kind="stable")
    kept = order if keep_failed or not failed.any() else order[~failed[order]]
    unchanged = len(kept) == n and bool((np.diff(kept) == 1).all())
    fields: dict[str, Any] = {"prompt_tokens": columns.prompt_tokens, "output_tokens": columns.output_tokens}
    fields |= {"arrival": arrival} | columns.labels | columns.numbers
    for name in ("blocks", "programs", "chunks"):
        if getattr(columns, name) is not None:
            fields[name] = getattr(columns, name)
    if not unchanged:
        fields = {name: c[kept] if isinstance(c, np.ndarray) else c.take(kept) for name, c in fields.items()}
    return RequestTable(source=source, **fields)


def check_blocks(blocks: PrefixBlocks, prompt_tokens: Ints, output_tokens: Ints, path: Path) -> None:
    """Raise unless every row lists as many block ids as rule and scope say."""
    listed = np.diff(blocks.offsets)
    wrong = np.flatnonzero(listed != blocks.counts(prompt_tokens, output_tokens))
    if len(wrong):
        row = int(wrong[0])
        here = slice(row, row + 1)
        up, down = (
            int(replace(blocks, rule=rule).counts(prompt_tokens[here], output_tokens[here])[0])
            for rule in ("ceil", "floor")
        )
        expected = (
            f"{up} by the rule 'ceil' (the partial last block counts) or {down} by the rule 'floor' (full blocks "
            f"only); the rule here is {blocks.rule!r} with blocks of {blocks.size} tokens"
        )
        answer = f" and {int(output_tokens[row])} output tokens" if blocks.scope == "context" else ""
        found = f"{int(listed[row])} hash_ids for {int(prompt_tokens[row])} prompt tokens{answer}"
        raise InputError(f"{path}: row {row + 1}", found, expected)


def _duplicates(columns: Columns) -> int:
    """Rows equal to an earlier one in every column, by a 64-bit hash of each row."""
    numbers = [columns.time, columns.prompt_tokens, columns.output_tokens, *columns.numbers.values()]
    parts: list[NDArray[Any]] = [column.view(np.uint64) for column in numbers]
    parts += [label.codes.astype(np.int64).view(np.uint64) for label in columns.labels.values()]
    if columns.blocks is not None:  # ids are chained: the last one and their number say it all
        counts = np.diff(columns.blocks.offsets)
        last = np.concatenate([columns.blocks.ids, [0]])[columns.blocks.offsets[1:] - 1]
        parts += [counts.view(np.uint64), last.view(np.uint64)]
    digest = np.zeros(len(columns.time), np.uint64)
    for part in parts:
        digest = (digest ^ part) * np.uint64(0x9E3779B97F4A7C15)
        digest ^= digest >> np.uint64(29)
    digest.sort()  # np.unique would hash, ten times slower
    return int((digest[1:] == digest[:-1]).sum())
