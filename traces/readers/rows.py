"""Chunks of consecutive rows of a CSV or JSON-lines file, and typed columns with errors that name the row."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ...errors import InputError, nearest_name
from ..columns import Floats, Ints
from .base import Names

BLOCK = 1 << 16  # characters of a CSV read at a time: cells and columns stay in the processor's cache
CHUNK = 1_024  # JSON lines read at a time


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
            with suppress(ValueError, OverflowError):
                result = np.fromiter(map(int, values), np.int64, self.count)
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
            with suppress(ValueError, OverflowError):
                result = np.fromiter(map(float, values), np.float64, self.count)
        if result is None or not np.isfinite(result).all():
            result = np.fromiter(
                (self._real(i, name, v, missing) for i, v in enumerate(values)), np.float64, self.count
            )
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
            raise self.error(
                bad, f"unknown key {key!r}", f"one of {', '.join(sorted(known))}", nearest_name(key, known)
            )
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
