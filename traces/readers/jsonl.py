"""Columns out of JSON-lines requests: Mooncake's four keys and those that our own format adds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...errors import InputError
from ..columns import Floats, Ints, Labels, PrefixBlocks
from ..programs import linked
from .base import Columns, LabelColumn, joined
from .rows import JsonRows

LABELS = {
    "request_id": "request_id",
    "session": "session",
    "model": "model",
    "tenant": "tenant",
    "class": "request_class",
}
NUMBERS = {
    "timestamp": np.nan,
    "arrival": np.nan,
    "cancel_after": np.inf,
    "elapsed": np.nan,
    "gap": 0.0,
    "deadline": np.inf,
}  # and what an absent one is
LENGTHS = ("input_length", "output_length")


def read_requests(path: Path, chunks: Iterable[JsonRows], size: int, rule: Literal["ceil", "floor"]) -> Columns:
    """The columns of a JSON-lines trace whose prefix blocks have `size` tokens and follow `rule`.

    A row's time is `arrival` (seconds, taken as it is) where the file has that key, otherwise `timestamp` (ms).
    """
    numbers: dict[str, list[Floats]] = {name: [] for name in NUMBERS}
    whole: dict[str, list[Ints]] = {name: [] for name in (*LENGTHS, "priority")}
    labels = {name: LabelColumn() for name in (*LABELS, "tool")}
    ids: list[list[int]] = []
    parents: list[list[str]] = []
    seen: set[str] = set()
    for rows in chunks:
        seen |= rows.keys
        for name, absent in NUMBERS.items():
            there = name in rows.keys
            numbers[name].append(rows.floats(name, absent) if there else np.full(rows.count, absent))
        for name in LENGTHS:
            whole[name].append(rows.ints(name))
        priority = rows.ints("priority", 0, signed=True) if "priority" in rows.keys else np.zeros(rows.count, np.int64)
        whole["priority"].append(priority)
        for name, column in labels.items():
            column.add(rows.names(name) if name in rows.keys else [None] * rows.count)
        ids += _ids(rows) if "hash_ids" in rows.keys else [[]] * rows.count
        parents += _parents(rows) if "parents" in rows.keys else [[]] * rows.count

    try:
        blocks = PrefixBlocks.of(size, rule, ids) if "hash_ids" in seen else None
    except OverflowError:
        raise InputError(
            str(path), "a hash id of more than 63 bits", "ids that fit into a signed 64-bit number"
        ) from None
    exact = "arrival" in seen
    clock = "arrival" if exact else "timestamp"
    time = joined(numbers[clock], np.float64)
    missing = np.flatnonzero(np.isnan(time))
    if len(missing):
        raise InputError(f"{path}: row {missing[0] + 1}", f"no {clock}", f"{clock} in every row")
    optional: dict[str, Any] = {n: joined(numbers[n], np.float64) for n in ("cancel_after", "elapsed") if n in seen}
    if "priority" in seen:
        optional["priority"] = joined(whole["priority"], np.int64)
    named: dict[str, Labels] = {LABELS[n]: labels[n].labels() for n in LABELS if n in seen}
    programs = None
    if "parents" in seen:
        names = list(named["request_id"]) if "request_id" in named else [None] * len(time)
        gap, deadline = (joined(numbers[n], np.float64) for n in ("gap", "deadline"))
        programs = linked(str(path), names, parents, gap, labels["tool"].labels(), deadline)
    elif lone := seen & {"gap", "tool", "deadline"}:
        raise InputError(str(path), f"{min(lone)} without parents", "the request ids of each row's parents")
    return Columns(
        time if exact else time / 1000.0,
        joined(whole["input_length"], np.int64),
        joined(whole["output_length"], np.int64),
        labels=named,
        numbers=optional,
        blocks=blocks,
        programs=programs,
        exact=exact,
    )


def _parents(rows: JsonRows) -> list[list[str]]:
    lists = [[] if value is None else value for value in rows.values("parents")]
    for i, names in enumerate(lists):
        if not isinstance(names, list) or set(map(type, names)) - {str, int}:
            raise rows.error(i, f"parents is {str(names)[:40]}", "a list of request ids")
    return [[str(name) for name in names] for names in lists]


def _ids(rows: JsonRows) -> list[list[int]]:
    lists = rows.values("hash_ids")
    for i, ids in enumerate(lists):
        if not isinstance(ids, list) or set(map(type, ids)) - {int}:
            raise rows.error(i, f"hash_ids is {str(ids)[:40]}", "a list of whole numbers")
    return list(lists)
