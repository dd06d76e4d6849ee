"""Write a request table as a trace file: our own format (exact), Mooncake, BurstGPT or Azure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, unknown_name
from .columns import Labels
from .files import replacing_text
from .programs import Programs
from .readers.burstgpt import ELAPSED, LOG_TYPE, MODEL, OUTPUT, PROMPT, SESSION, TIME, TOTAL
from .readers.jsonl import LABELS
from .readers.mooncake import BLOCK_SIZE
from .table import RequestTable

DAY = 86_400.0
EPOCH = 1e9  # an origin beyond this is seconds since 1970, not seconds of a trace's own clock
Lines = Iterator[str]


def write(tables: RequestTable | Iterable[RequestTable], path: str | Path, format: str = "servecast") -> int:
    """Write one table, or the consecutive chunks of a long one, and return the number of rows.

    format : "servecast" keeps everything, and reading it back gives the same arrivals to the bit;
    "mooncake" keeps whole milliseconds, lengths and block ids (what benchmark tools replay);
    "burstgpt" and "azure" keep what their columns can hold.
    path : gzipped when it ends in `.gz`. The file appears only when it is complete.
    """
    if format not in WRITERS:
        raise unknown_name("format", "trace writer", format, WRITERS)
    chunks = iter([tables] if isinstance(tables, RequestTable) else tables)
    rows = 0

    def counted() -> Iterator[RequestTable]:
        nonlocal rows
        for chunk in chunks:
            rows += len(chunk)
            yield chunk

    with replacing_text(Path(path)) as text:
        text.writelines(WRITERS[format](counted()))
        if rows == 0:
            raise InputError(str(path), "nothing to write", "at least one request")
    return rows


def _native(tables: Iterator[RequestTable]) -> Lines:
    for i, table in enumerate(tables):
        if i == 0:
            header: dict[str, Any] = {"servecast_trace": 1}
            if table.blocks is not None:
                header |= {"block_size": table.blocks.size, "block_rule": table.blocks.rule}
                if table.blocks.scope == "context":
                    header["block_scope"] = "context"
            if table.source.origin:
                header["origin"] = table.source.origin
            yield json.dumps(header) + "\n"
        pieces = [
            _numbers("timestamp", np.round(table.arrival * 1000.0, 6), np.nan),
            _numbers("input_length", table.prompt_tokens, None),
            _numbers("output_length", table.output_tokens, None),
            _numbers("arrival", table.arrival, np.nan),
        ]
        for key, name in LABELS.items():
            if (labels := getattr(table, name)) is not None:
                pieces.append(_labels(key, labels))
        for name, missing in (("priority", None), ("cancel_after", np.inf), ("elapsed", np.nan)):
            if (column := getattr(table, name)) is not None:
                pieces.append(_numbers(name, column, missing))
        if table.programs is not None:
            pieces += _programs(table.programs, table)
        yield from _objects(pieces, table)


def _programs(programs: Programs, table: RequestTable) -> list[list[str]]:
    """Who waits for whom, by request id; rows without one are called by their number."""
    names = list(map(str, range(len(table)))) if table.request_id is None else [str(name) for name in table.request_id]
    lists = ([names[i] for i in programs.parents.row(row).tolist()] for row in range(len(table)))
    parents = [f'"parents": {json.dumps(some, ensure_ascii=False)}' if some else "" for some in lists]
    ids = [] if table.request_id else [[f'"request_id": "{name}"' for name in names]]
    gap, tool = _numbers("gap", programs.gap, 0.0), _labels("tool", programs.tool)
    return [*ids, parents, gap, tool, _numbers("deadline", programs.deadline, np.inf)]


def _mooncake(tables: Iterator[RequestTable]) -> Lines:
    for table in tables:
        blocks = table.blocks
        if blocks is not None and (blocks.size, blocks.rule, blocks.scope) != (BLOCK_SIZE, "ceil", "prompt"):
            found = f"{blocks.scope} blocks of {blocks.size} tokens by the rule {blocks.rule!r}"
            raise InputError(
                "format mooncake",
                found,
                f"prompt blocks of {BLOCK_SIZE} tokens by the rule 'ceil', or the format servecast",
            )
        # other tools read whole milliseconds only
        pieces = [
            _numbers("timestamp", np.rint(table.arrival * 1000.0).astype(np.int64), None),
            _numbers("input_length", table.prompt_tokens, None),
            _numbers("output_length", table.output_tokens, None),
        ]
        yield from _objects(pieces, table)


def _objects(pieces: list[list[str]], table: RequestTable) -> Lines:
    """One JSON object a row from its `"key": value` pieces; a piece of "" is left out."""
    if table.blocks is not None:
        pieces = [*pieces, [f'"hash_ids": {table.blocks.row(i).tolist()}' for i in range(len(table))]]
    for row in zip(*pieces, strict=True):
        yield f"{{{', '.join(filter(None, row))}}}\n"


def _numbers(key: str, column: NDArray[Any], missing: float | None) -> list[str]:
    """`"key": value` a row; "" where the value is `missing`. Floats are written so that they read back exactly."""
    values = column.tolist()
    if missing is None or not (np.isnan(column) if np.isnan(missing) else column == missing).any():
        return [f'"{key}": {value!r}' for value in values]
    absent = (np.isnan(column) if np.isnan(missing) else column == missing).tolist()
    return ["" if none else f'"{key}": {value!r}' for value, none in zip(values, absent, strict=True)]


def _labels(key: str, labels: Labels) -> list[str]:
    texts = [f'"{key}": {json.dumps(name, ensure_ascii=False)}' for name in labels.names] + [""]
    return [texts[code] for code in labels.codes.tolist()]  # the code -1 takes the last one, ""


def _burstgpt(tables: Iterator[RequestTable]) -> Lines:
    first = next(tables, None)
    if first is None:
        return
    long = first.session is not None or first.elapsed is not None
    yield ",".join([TIME, *([SESSION, ELAPSED] if long else []), MODEL, PROMPT, OUTPUT, TOTAL, LOG_TYPE]) + "\n"
    for table in chain([first], tables):
        origin = table.source.origin
        stamps = _decimal(_nanoseconds(table, origin if origin < EPOCH else origin % DAY), 9)
        columns = [stamps]
        if long:
            columns += [_names(table.session, table), _elapsed(table)]
        total = table.prompt_tokens + table.output_tokens
        columns.append(_names(table.model, table))
        columns += [list(map(str, column.tolist())) for column in (table.prompt_tokens, table.output_tokens, total)]
        columns.append(_names(table.request_class, table))
        for row in zip(*columns, strict=True):
            yield ",".join(row) + "\n"


def _azure(tables: Iterator[RequestTable]) -> Lines:
    yield "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    for table in tables:
        ticks = (_nanoseconds(table, table.source.origin) + 50) // 100 * 100  # the format counts 100 ns
        stamps = np.datetime_as_string(ticks.astype("datetime64[ns]"), unit="ns").tolist()
        lengths = zip(stamps, table.prompt_tokens.tolist(), table.output_tokens.tolist(), strict=True)
        for stamp, prompt, output in lengths:
            yield f"{stamp[:10]} {stamp[11:27]},{prompt},{output}\n"


def _nanoseconds(table: RequestTable, origin: float) -> NDArray[np.int64]:
    """Whole nanoseconds of the source's clock; exact, where a sum of floats would lose digits."""
    return np.rint(table.arrival * 1e9).astype(np.int64) + round(origin * 1e9)


def _decimal(counts: NDArray[np.int64], places: int) -> list[str]:
    """Counts of 10**-places as decimal text without trailing zeros."""
    whole, rest = np.divmod(counts, 10**places)
    return [f"{w}.{f:0{places}d}".rstrip("0").rstrip(".") for w, f in zip(whole.tolist(), rest.tolist(), strict=True)]


def _names(labels: Labels | None, table: RequestTable) -> list[str]:
    if labels is None:
        return [""] * len(table)
    names = [_cell(name) for name in labels.names] + [""]
    return [names[code] for code in labels.codes.tolist()]


def _cell(name: str) -> str:
    quoted = name.replace('"', '""')
    return f'"{quoted}"' if set(name) & set(',"\r\n') else name


def _elapsed(table: RequestTable) -> list[str]:
    if table.elapsed is None:
        return [""] * len(table)
    return ["" if np.isnan(value) else f"{value:.9g}" for value in table.elapsed.tolist()]


WRITERS: dict[str, Callable[[Iterator[RequestTable]], Lines]] = {
    "servecast": _native,
    "mooncake": _mooncake,
    "burstgpt": _burstgpt,
    "azure": _azure,
}
