"""What readers share: chunks of rows, typed columns with errors that name the row, and recognition by content."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, nearest_name
from ..table import Floats, Ints, Labels, PrefixBlocks

BLOCK = 1 << 16  # characters of a CSV read at a time: cells and columns stay in the processor's cache
CHUNK = 1_024  # JSON lines read at a time
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


class Rows:
    """A chunk of consecutive rows. Row numbers in errors count data rows from 1."""

    whole: tuple[type, ...]  # the types in which the format writes whole numbers,
    real: tuple[type, ...]  # and any number

    def __init__(self, path: Path, first: int, count: int) -> None:
        self.path, self.first, self.count = path, first, count

    def values(self, name: str) -> Sequence[Any]:
        """Column `name` as read: text from a CSV, any JSON value from JSON lines (None where a row has none)."""
        raise NotImplementedError

    def error(self, index: int, found: str, expected: str, near: str | None = None) -> InputError:
        """An error at row `index` of this chunk."""
        return InputError(f"{self.path}: row {self.first + index}", found, expected, near)

    def ints(self, name: str, missing: int | None = None, signed: bool = False) -> Ints:
        """Whole numbers, >= 0 unless `signed`, as int64. An empty cell is `missing`, or an error where that is None."""
        values = self.values(name)
        result: Ints | None = None
        if set(map(type, values)) <= set(self.whole):
            try:
                result = np.fromiter(map(int, values), np.int64, self.count)
            except (ValueError, OverflowError):
                pass
        if result is None:
            result = np.fromiter((self._whole(i, name, v, missing) for i, v in enumerate(values)), np.int64, self.count)
        if self.count and not signed and result.min() < 0:
            bad = int(np.argmax(result < 0))
            raise self.error(bad, f"{name} is {result[bad]}", "0 or more")
        return result

    def floats(self, name: str, missing: float | None = None) -> Floats:
        """Numbers as float64, finite unless the cell is empty and `missing` says what stands there."""
        values = self.values(name)
        result: Floats | None = None
        if set(map(type, values)) <= set(self.real):
            try:
                result = np.fromiter(map(float, values), np.float64, self.count)
            except (ValueError, OverflowError):
                pass
        if result is None or not np.isfinite(result).all():
            result = np.fromiter((self._real(i, name, v, missing) for i, v in enumerate(values)), np.float64, self.count)
        return result

    def names(self, name: str) -> Sequence[Any]:
        """The values of a label column: text, or numbers that serve as names; None or "" where there is none."""
        values = self.values(name)
        if set(map(type, values)) - {str, int, type(None)}:
            bad = next(i for i, value in enumerate(values) if type(value) not in (str, int, type(None)))
            raise self.error(bad, f"{name} is {values[bad]!r}", "text")
        return values

    def _whole(self, index: int, name: str, value: Any, missing: int | None) -> int:
        number = self._real(index, name, value, None if missing is None else math.nan)
        if math.isnan(number) and missing is not None:
            return missing
        if not number.is_integer() or abs(number) > 2**53:
            raise self.error(index, f"{name} is {value!r}", "a whole number")
        return int(number)

    def _real(self, index: int, name: str, value: Any, missing: float | None) -> float:
        if missing is not None and (value is None or value == ""):
            return missing
        if type(value) in self.real:
            try:
                number = float(value)
            except (ValueError, OverflowError):
                number = math.nan
            if math.isfinite(number):
                return number
        raise self.error(index, f"{name} is {value!r}", "a number")


class CsvRows(Rows):
    """A chunk of a delimited file, column-wise."""

    whole, real = (str,), (str,)

    def __init__(self, path: Path, first: int, count: int, columns: dict[str, Sequence[str]]) -> None:
        super().__init__(path, first, count)
        self._columns = columns

    def values(self, name: str) -> Sequence[Any]:
        return self._columns[name]


class JsonRows(Rows):
    """A chunk of JSON objects."""

    whole, real = (int,), (int, float)

    def __init__(self, path: Path, first: int, rows: list[dict[str, Any]]) -> None:
        super().__init__(path, first, len(rows))
        self.rows = rows
        self.keys = set().union(*rows)

    def values(self, name: str) -> Sequence[Any]:
        return [row.get(name) for row in self.rows]

    def check(self, required: Names, optional: Names) -> None:
        """Raise unless every row has the required keys and only known ones."""
        for key in sorted(self.keys - required - optional):
            bad = next(i for i, row in enumerate(self.rows) if key in row)
            known = required | optional
            raise self.error(bad, f"unknown key {key!r}", f"one of {', '.join(sorted(known))}", nearest_name(key, known))
        for key in sorted(required):
            bad = next((i for i, row in enumerate(self.rows) if key not in row), -1)
            if bad >= 0:
                raise self.error(bad, f"no key {key!r}", f"the keys {', '.join(sorted(required))}")


def read_csv(path: Path, text: TextIO, delimiter: str = ",") -> tuple[list[str], Iterator[CsvRows]]:
    """The header of a delimited file and its data rows in chunks."""
    header = [name.strip() for name in next(csv.reader([text.readline()], delimiter=delimiter), [])]

    def chunks() -> Iterator[CsvRows]:
        first, block = 1, _block(text)
        while block:
            following = _block(text)
            if not following:  # blank lines at the end of the file are no rows
                block = block.rstrip("\r\n")
            if block:
                rows = _csv_rows(path, first, header, block, delimiter)
                yield rows
                first += rows.count
            block = following

    return header, chunks()


def _block(text: TextIO) -> str:
    """Some whole rows of text; a quoted cell may hold line ends."""
    block = text.read(BLOCK) + text.readline()
    while block.count('"') % 2 and (line := text.readline()):
        block += line
    return block


def _csv_rows(path: Path, first: int, header: list[str], block: str, delimiter: str) -> CsvRows:
    width = len(header)
    if '"' not in block:
        # One split for all cells is three times as fast as csv.reader. Each line end becomes a cell of its
        # own; when these stand at every (width + 1)-th place and nowhere else, every row has `width` cells.
        lines = block.replace("\r\n", "\n").removesuffix("\n")
        cells = lines.replace("\n", f"{delimiter}\n{delimiter}").split(delimiter)
        count = lines.count("\n") + 1
        if len(cells) == count * (width + 1) - 1 and cells[width :: width + 1].count("\n") == count - 1:
            return CsvRows(path, first, count, {name: cells[i :: width + 1] for i, name in enumerate(header)})
    try:
        rows = list(csv.reader(io.StringIO(block, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise InputError(f"{path}: row {first} or later", f"not CSV ({error})", "delimited text") from None
    for i, row in enumerate(rows):
        if len(row) != width:
            raise InputError(f"{path}: row {first + i}", f"{len(row)} cells", f"{width}: {', '.join(header)}")
    return CsvRows(path, first, len(rows), dict(zip(header, zip(*rows, strict=True), strict=True)))


def read_json_lines(path: Path, lines: Iterable[str]) -> Iterator[JsonRows]:
    """JSON objects, one a line, in chunks; blank lines are errors except at the end."""
    stream = iter(lines)
    first = 1
    while block := list(islice(stream, CHUNK)):
        while block and not block[-1].strip():
            block.pop()
        try:  # one parse of the joined lines is twice as fast as one a line
            rows = json.loads(f"[{','.join(block)}]", parse_constant=_no_constant)
        except ValueError:
            rows = []
        if len(rows) != len(block) or set(map(type, rows)) - {dict}:
            rows = [_json_object(path, first + i, line) for i, line in enumerate(block)]
        yield JsonRows(path, first, rows)
        first += len(rows)


def _json_object(path: Path, row: int, line: str) -> dict[str, Any]:
    where = f"{path}: row {row}"
    try:
        value = json.loads(line, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        shown = line.strip()[:40]
        raise InputError(where, f"not JSON ({error.msg} at column {error.colno}): {shown!r}", "a JSON object") from None
    except ValueError as error:
        raise InputError(where, str(error), "finite numbers") from None
    if not isinstance(value, dict):
        raise InputError(where, f"{type(value).__name__} {line.strip()[:40]!r}", "a JSON object") from None
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"the constant {name}")


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
