"""Measured operator times in memory: one table a kind of operator, and where they come from.

docs/cost-tables.md describes the kinds and their columns; `tablefile` reads and writes them.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import InputError, nearest_name
from .curve import Curve
from .grid import Array, Grid, grid

UNITS = {"time_s": 1.0, "time_ms": 1e-3, "time_us": 1e-6}  # the unit is part of the column's name


@dataclass(frozen=True)
class Kind:
    """What keys a kind of table.

    labels : columns that a look-up matches exactly, with their type. axes : numbers between which it interpolates.
    value : the column that is no time, where the kind has none.
    """

    labels: Mapping[str, type]
    axes: tuple[str, ...]
    value: str | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        return (*self.labels, *self.axes)


_ATTENTION = {"dtype": str, "kv_dtype": str, "heads": int, "kv_heads": int, "head_dim": int, "window": int}
_EXPERTS = {
    "dtype": str,
    "hidden": int,
    "inter": int,
    "topk": int,
    "experts": int,
    "tp": int,
    "ep": int,
    "routing": str,
}
KINDS: dict[str, Kind] = {
    "gemm": Kind({"dtype": str}, ("n", "k", "m")),
    "prefill_attention": Kind(_ATTENTION, ("batch", "chunk", "context")),
    "decode_attention": Kind(_ATTENTION, ("batch", "context")),
    "mixed_attention": Kind(_ATTENTION, ("chunk", "chunk_context", "decodes", "decode_context")),
    "uneven_decodes": Kind({"tp": int}, ("chunk", "decodes", "skew", "longest", "chunk_context"), value="alpha"),
    "moe": Kind(_EXPERTS, ("tokens",)),
    "moe_layer": Kind({"tp": int}, ("active", "tokens")),
    "collective": Kind({"op": str, "ranks": int, "backend": str}, ("bytes",)),
    "elementwise": Kind({"operator": str}, ("bytes",)),
    "layer": Kind({"operator": str, "tp": int}, ("tokens",)),
    "sequence": Kind({"operator": str, "tp": int}, ("sequences",)),
    "kv_copy": Kind({"direction": str}, ("bytes",)),
}


@dataclass(frozen=True)
class MeasuredModel:
    """The model that whole-layer tables were measured on; its figures are checked where they are given."""

    name: str
    hidden_size: int | None = None
    intermediate: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    vocab_size: int | None = None
    dtype: str | None = None  # in which products are computed


@dataclass(frozen=True)
class Provenance:
    """Where a table set comes from.

    gpu : as the driver names it. hardware : name of a hardware card, for the check against the data sheet.
    engine : name and version of what ran the kernels. grid : how the points were chosen.
    model : of whole-layer tables. uneven_default : alpha where no bucket of `uneven_decodes` was measured.
    """

    gpu: str
    source: str
    licence: str
    hardware: str | None = None
    engine: str = "unknown"
    driver: str = "unknown"
    software: dict[str, str] = field(default_factory=dict)
    date: str = "unknown"
    grid: str = ""
    model: MeasuredModel | None = None
    uneven_default: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """Rows of one kind.

    columns : its keys; texts, or numbers as float64. values : seconds, or what the kind has instead.
    watts : mean power of the device during the call, where it was measured.
    """

    kind: str
    columns: Mapping[str, Array]
    values: Array
    watts: Array | None = None

    def __len__(self) -> int:
        return len(self.values)

    def where(self, **labels: object) -> Table:
        """The rows with these keys; maybe none."""
        chosen = np.ones(len(self), bool)
        for name, value in labels.items():
            chosen &= self.columns[name] == value
        return self.take(chosen)

    def sorted(self) -> Table:
        """The rows in the order of their keys."""
        return self.take(np.lexsort(tuple(self.columns[name] for name in reversed(KINDS[self.kind].keys))))

    def take(self, rows: Array) -> Table:
        """Some rows, by index or mask."""
        watts = None if self.watts is None else self.watts[rows]
        return Table(self.kind, {name: c[rows] for name, c in self.columns.items()}, self.values[rows], watts)

    def grid(self, axes: Sequence[str] = (), joules: float | None = None) -> Grid | Curve:
        """The values over `axes` (the kind's, unless given), outermost first; the other keys must not vary.

        joules : values are then joules: seconds x the measured power, or x `joules` watts where none was measured.
        """
        names = axes or KINDS[self.kind].axes
        values = self.values
        if joules is not None:
            values = values * (joules if self.watts is None else self.watts)
        try:
            return grid([self.columns[name] for name in names], values, names)
        except InputError as error:
            raise error.at(self.kind) from None


def make_table(kind: str, columns: Mapping[str, Array], where: str) -> Table:
    """Check the columns of a file and make the table of them. `where` names the file in errors."""
    spec = KINDS[kind]
    value = [name for name in columns if name in UNITS or name == spec.value]
    wanted = "one of " + ", ".join(UNITS) if spec.value is None else spec.value
    if len(value) != 1 or (value[0] in UNITS) is not (spec.value is None):
        raise InputError(where, f"value columns {value or 'none'}", wanted)
    known = {*spec.keys, value[0], "power_w"}
    for name in spec.keys:
        if name not in columns:
            near = nearest_name(name, set(columns) - known)
            raise InputError(where, f"no column {name!r}", "columns " + ", ".join(spec.keys), near)
    for name in columns:
        if name not in known:
            raise InputError(where, f"unknown column {name!r}", "one of " + ", ".join(known), nearest_name(name, known))
    keys: dict[str, Array] = {}
    for name in spec.keys:
        if spec.labels.get(name) is str:
            keys[name] = columns[name].astype(str)
        else:
            keys[name] = _numbers(columns[name], f"{where}: {name}", whole=name in spec.labels)
    values = _numbers(columns[value[0]], f"{where}: {value[0]}")
    if not len(values):
        raise InputError(where, "no rows", "at least one")
    watts = _numbers(columns["power_w"], f"{where}: power_w") if "power_w" in columns else None
    if spec.value is None:
        _positive(values, f"{where}: {value[0]}")
        values = values * UNITS[value[0]]
    if watts is not None:
        _positive(watts, f"{where}: power_w")
    return Table(kind, keys, values, watts)


def _numbers(column: Array, where: str, whole: bool = False) -> Array:
    try:
        numbers = column.astype(float)
    except ValueError:
        numbers = np.array([_number(cell) for cell in column.tolist()])
    bad = ~np.isfinite(numbers) | (whole & (numbers != np.round(numbers)))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        expected = "a whole number" if whole else "a finite number"
        raise InputError(f"{where}, row {row + 1}", repr(column[row].item()), expected)
    return numbers


def _number(cell: object) -> float:
    try:
        return float(str(cell))
    except ValueError:
        return float("nan")


def _positive(numbers: Array, where: str) -> None:
    if (numbers <= 0).any():
        row = int(np.flatnonzero(numbers <= 0)[0])
        raise InputError(f"{where}, row {row + 1}", f"{numbers[row]:g}", "above 0")


class TableSet:
    """The tables of one GPU and engine version; a kind's rows are read when first asked for.

    where : the folder or file, for errors.
    """

    def __init__(self, provenance: Provenance, tables: Mapping[str, Table | Callable[[], Table]], where: str) -> None:
        self.provenance, self.where = provenance, where
        self._tables = dict(tables)
        self._grids: dict[tuple[object, ...], Grid | Curve | None] = {}  # made once for all pools and stages

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(self._tables)

    @property
    def has_power(self) -> bool:
        """Whether power was measured with any kind."""
        return any((table := self.get(kind)) is not None and table.watts is not None for kind in self.kinds)

    def get(self, kind: str) -> Table | None:
        """The table of a kind, or None."""
        table = self._tables.get(kind)
        if table is not None and not isinstance(table, Table):
            table = self._tables[kind] = table()
        return table

    def find(self, kind: str, **labels: object) -> Table | None:
        """The rows of a kind with these labels, or None where there are none."""
        table = self.get(kind)
        rows = table.where(**labels) if table else None
        return rows if rows else None

    def grid(self, kind: str, joules: float | None = None, **labels: object) -> Grid | Curve | None:
        """The grid of a kind over its axes at these labels (`Table.grid`), or None where there are no such rows."""
        key = (kind, joules, *labels.items())
        if key not in self._grids:
            rows = self.find(kind, **labels)
            self._grids[key] = rows.grid(joules=joules) if rows else None
        return self._grids[key]

    def joined(self, other: TableSet) -> TableSet:
        """The kinds of both, with the provenance of this one and the other's sources beside it.

        Raises InputError where both hold a kind, or where they were measured on different hardware.
        """
        mine, others = self.provenance, other.provenance
        both = set(self.kinds) & set(other.kinds)
        if both:
            raise InputError(other.where, f"{', '.join(sorted(both))}, also in {self.where}", "each kind in one source")
        if None not in (mine.hardware, others.hardware) and mine.hardware != others.hardware:
            raise InputError(other.where, f"tables of {others.hardware}", f"{mine.hardware}, as in {self.where}")
        joined = dataclasses.replace(
            mine,
            source=f"{mine.source}; {others.source}",
            licence=mine.licence if mine.licence == others.licence else f"{mine.licence}; {others.licence}",
            model=mine.model or others.model,
            notes=(*mine.notes, *others.notes),
        )
        return TableSet(joined, {**self._tables, **other._tables}, self.where)

    def fingerprint(self) -> str:
        """SHA-256 of all tables, first 16 hex digits."""
        digest = hashlib.sha256()
        for kind in sorted(self._tables):
            table = self.get(kind)
            assert table is not None
            table = table.sorted()
            for column in (*table.columns.values(), table.values, *([] if table.watts is None else [table.watts])):
                digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        """Rows, distinct labels and the range of each axis, by kind."""
        described: dict[str, Any] = {}
        for kind in self.kinds:
            table = self.get(kind)
            assert table is not None
            spec, columns = KINDS[kind], table.columns
            labels = spec.labels
            described[kind] = {
                "rows": len(table),
                "power": table.watts is not None,
                "labels": {name: list(map(label, np.unique(columns[name]).tolist())) for name, label in labels.items()},
                "axes": {
                    name: {"points": len(np.unique(columns[name])), "from": float(columns[name].min()),
                           "to": float(columns[name].max())}
                    for name in spec.axes
                },
            }  # fmt: skip
        return described
