"""Change a request table: scale its rate, cut a window, limit, merge, filter."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, unknown_name
from .assemble import NANOSECONDS
from .columns import Labels, PrefixBlocks
from .programs import joined_programs
from .table import OPTIONAL_LABELS, RequestTable, Source

COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_CONDITION = re.compile(r"\s*(\w+)\s*(!=|<=|>=|==|=|<|>)\s*(.*?)\s*")


def scale_rate(table: RequestTable, factor: float) -> RequestTable:
    """The same requests `factor` times as fast: arrivals are divided, patience and lengths stay."""
    if not (math.isfinite(factor) and factor > 0):
        raise InputError("rate scale", str(factor), "a positive number")
    with np.errstate(over="ignore"):  # the table refuses times that are not finite
        return replace(table, arrival=np.round(table.arrival / factor, NANOSECONDS))


def window(table: RequestTable, start: float = 0.0, end: float = math.inf) -> RequestTable:
    """The requests with start <= arrival < end (seconds), re-based so that `start` becomes 0."""
    if not 0 <= start < end:
        raise InputError("window", f"{start} to {end} s", "0 <= start < end")
    first, last = np.searchsorted(table.arrival, [start, end])
    if first == last:
        raise InputError("window", f"no request from {start} to {end} s", f"a part of 0 to {_span(table)} s")
    cut = table.take(slice(int(first), int(last)))
    source = replace(table.source, origin=table.source.origin + start)
    return replace(cut, arrival=np.round(cut.arrival - start, NANOSECONDS) if start else cut.arrival, source=source)


def limit(table: RequestTable, rows: int) -> RequestTable:
    """The first `rows` requests."""
    if rows < 1:
        raise InputError("limit", str(rows), "1 or more requests")
    return table.take(slice(0, rows))


def where(table: RequestTable, condition: str) -> RequestTable:
    """The requests that fulfil `COLUMN OPERATOR VALUE`; the operator is one of = != <= >= < >.

    `model=GPT-4`, `request_class!=API log`, `prompt_tokens<=8192`. Label columns know = and != only; a row
    without a label is unequal to every value. `class` means request_class.
    """
    parts = _CONDITION.fullmatch(condition)
    if parts is None:
        raise InputError(f"condition {condition!r}", "no comparison", "COLUMN=VALUE with one of = != <= >= < >")
    name, sign, value = parts[1], parts[2].replace("==", "="), parts[3]
    name = "request_class" if name == "class" else name
    columns = {key: column for key, column in table.columns().items() if key != "blocks"}
    if name not in columns:
        alias = ["class"] if "request_class" in columns else []
        raise unknown_name(f"condition {condition!r}", "column of this trace", name, [*columns, *alias])
    column = columns[name]
    mask: NDArray[np.bool_]
    if isinstance(column, Labels):
        if sign not in ("=", "!="):
            raise InputError(f"condition {condition!r}", f"{sign} on the names of {name}", "= or !=")
        if value not in column.names:
            raise unknown_name(f"condition {condition!r}", name, value, column.names)
        mask = COMPARE[sign](column.codes, column.names.index(value))
    else:
        try:
            number = float(value)
        except ValueError:
            raise InputError(f"condition {condition!r}", f"the value {value!r}", "a number") from None
        mask = COMPARE[sign](column, number)
    if not mask.any():
        raise InputError(f"condition {condition!r}", "no request fulfils it", "at least one request")
    return table.take(mask)


def merge(tables: Sequence[RequestTable], label: str | None = None) -> RequestTable:
    """One table with the requests of several, in order of arrival; all traces start at the same zero.

    label : a label column (such as tenant) that tells the traces apart: it becomes the trace's name.
    A column that only some traces have is filled with "none". Prefix blocks of different traces are never equal;
    a request of a trace without blocks shares nothing.
    """
    if not tables:
        raise InputError("merge", "no traces", "one or more")
    if label is not None:
        if label not in OPTIONAL_LABELS:
            raise unknown_name("merge", "label column", label, OPTIONAL_LABELS)
        names = [table.source.name for table in tables]
        names = [name if names.count(name) == 1 else f"{name}#{i + 1}" for i, name in enumerate(names)]
        columns: list[dict[str, Any]] = [{label: _constant(len(t), n)} for t, n in zip(tables, names, strict=True)]
        tables = [replace(table, **column) for table, column in zip(tables, columns, strict=True)]
    arrival = np.concatenate([table.arrival for table in tables])
    order = np.argsort(arrival, kind="stable")
    present = {name for table in tables for name in table.columns()}
    fields: dict[str, Any] = {}
    for name in ("arrival", "prompt_tokens", "output_tokens", "priority", "cancel_after", "elapsed"):
        if name in present:
            fields[name] = np.concatenate([_filled(table, name) for table in tables])[order]
    for name in OPTIONAL_LABELS:
        if name in present:
            fields[name] = _merged_labels([getattr(table, name) or _constant(len(table), None) for table in tables])
            fields[name] = fields[name].take(order)
    if "blocks" in present:
        fields["blocks"] = _merged_blocks(tables).take(order)
    if "programs" in present:
        if any(table.programs is None for table in tables):
            raise InputError("merge", "programs in some of the traces only", "all with programs, or none")
        fields["programs"] = joined_programs([t.programs for t in tables if t.programs]).take(order)
    if "chunks" in present:
        raise InputError("merge", "a trace with the pieces of its prompts", "traces without")
    sources = [table.source for table in tables]
    counts = {
        name: sum(getattr(source, name) for source in sources)
        for name in ("rows", "failed", "dropped", "reordered", "duplicates")
    }
    formats = sorted({source.format for source in sources})
    name = " + ".join(source.name for source in sources)
    return RequestTable(
        source=Source(name=name, format="+".join(formats), origin=sources[0].origin, **counts), **fields
    )


def _filled(table: RequestTable, name: str) -> NDArray[Any]:
    """A number column of the table, or what stands for it where the table has none."""
    column = getattr(table, name)
    if column is not None:
        return np.asarray(column)
    missing = {"priority": 0, "cancel_after": math.inf, "elapsed": math.nan}[name]
    return np.full(len(table), missing)


def _constant(rows: int, name: str | None) -> Labels:
    return Labels(np.full(rows, -1 if name is None else 0, np.int32), () if name is None else (name,))


def _merged_labels(parts: Sequence[Labels]) -> Labels:
    index: dict[str, int] = {}
    codes = []
    for part in parts:
        renumbered = np.array([index.setdefault(name, len(index)) for name in part.names] + [-1], np.int32)
        codes.append(renumbered[part.codes])  # the code -1 takes the last entry, -1
    return Labels(np.concatenate(codes), tuple(index))


def _merged_blocks(tables: Sequence[RequestTable]) -> PrefixBlocks:
    given = [table.blocks for table in tables if table.blocks is not None]
    first = given[0]
    for blocks in given:
        if (blocks.size, blocks.rule, blocks.scope) != (first.size, first.rule, first.scope):
            found = f"prefix blocks of {_kind(first)} and of {_kind(blocks)}"
            raise InputError("merge", found, "one block size, rule and scope")
    counts, ids, free = [], [], 0
    for table in tables:
        own = table.blocks
        if own is None:
            listed = first.counts(table.prompt_tokens, table.output_tokens)
            block_ids = np.arange(int(listed.sum()))
        else:
            listed, block_ids = np.diff(own.offsets), own.ids - (own.ids.min() if len(own.ids) else 0)
        counts.append(listed)
        ids.append(block_ids + free)
        free += int(block_ids.max()) + 1 if len(block_ids) else 0
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    return replace(first, offsets=offsets, ids=np.concatenate(ids))


def _kind(blocks: PrefixBlocks) -> str:
    return f"{blocks.size} tokens ({blocks.rule}{', context' if blocks.scope == 'context' else ''})"


def _span(table: RequestTable) -> float:
    return float(table.arrival[-1]) if len(table) else 0.0
