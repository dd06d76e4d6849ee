"""What a reader is: recognition by a file's head, and the columns that it hands over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, nearest_name
from ..chunks import Chunks
from ..columns import Floats, Ints, Labels, PrefixBlocks
from ..programs import Programs

Names = frozenset[str]


@dataclass(frozen=True)
class Head:
    """The beginning of a trace file: its first line, and the column names or JSON keys found there."""

    line: str
    is_json: bool
    names: tuple[str, ...]


@dataclass
class Columns:
    """What a reader hands over: typed columns in file order, before any row is judged.

    `time` is in seconds after `origin`. `exact` times are arrivals already: neither shifted nor rounded.
    """

    time: Floats
    prompt_tokens: Ints
    output_tokens: Ints
    labels: dict[str, Labels] = field(default_factory=dict)
    numbers: dict[str, NDArray[Any]] = field(default_factory=dict)
    blocks: PrefixBlocks | None = None
    programs: Programs | None = None
    chunks: Chunks | None = None
    origin: float = 0.0
    exact: bool = False


@dataclass(frozen=True)
class Reader:
    """A trace format: what it is called, how well a file's head fits it, and how to read it.

    score : 0 when it cannot be this format, otherwise the share of its columns that are there.
    """

    name: str
    score: Callable[[Head], float]
    read: Callable[[Path, TextIO], Columns]


def scores(is_json: bool, required: Names) -> Callable[[Head], float]:
    """The usual score: the share of `required` names that the head has."""
    return lambda head: len(required & set(head.names)) / len(required) if head.is_json == is_json else 0.0


def check_names(path: Path, found: Sequence[str], required: Names, optional: Names, kind: str = "column") -> None:
    """Raise unless `found` has every required name and no unknown or repeated one."""
    known = ", ".join(sorted(required | optional))
    for name in sorted(required - set(found)):
        near = nearest_name(name, set(found) - required)
        raise InputError(str(path), f"no {kind} {name!r} among {', '.join(found)}", f"the {kind}s {known}", near)
    extra = [name for name in found if name not in required | optional]
    if extra:
        listed = ", ".join(repr(name) for name in extra)
        expected = f"only {known} (or a --columns mapping)"
        raise InputError(str(path), f"unknown {kind} {listed}", expected, nearest_name(extra[0], required | optional))
    repeated = sorted({name for name in found if found.count(name) > 1})
    if repeated:
        raise InputError(str(path), f"the {kind} {repeated[0]!r} is there twice", f"each {kind} once")


class LabelColumn:
    """A column of names that grows chunk by chunk; names are numbered in order of first appearance."""

    def __init__(self) -> None:
        self._index: dict[Any, int] = {}
        self._names: list[str] = []
        self._codes: list[NDArray[np.int32]] = []

    def add(self, values: Sequence[Any]) -> None:
        """One value a row; None and "" mean that the row has no name. Numbers are taken as text."""
        for value in dict.fromkeys(values):  # the order of a set of text would change from run to run
            if value not in self._index:
                blank = value is None or value == ""
                self._index[value] = -1 if blank else len(self._names)
                if not blank:
                    self._names.append(str(value))
        self._codes.append(np.fromiter(map(self._index.__getitem__, values), np.int32, len(values)))

    def labels(self) -> Labels:
        """The column so far."""
        return Labels(joined(self._codes, np.int32), tuple(self._names))


def joined(parts: list[Any], dtype: Any) -> Any:
    """The chunks of a column as one array (empty when there were none)."""
    return np.concatenate(parts) if parts else np.zeros(0, dtype)
