"""Reads and writes table sets: a folder, or a zip of one, with `table.yaml` and a CSV or Parquet file a kind."""

from __future__ import annotations

import dataclasses
import gzip
import io
import os
import shutil
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..configs.strict import build
from ..errors import InputError, nearest_name
from ..safe_yaml import parse_yaml
from .grid import Array
from .table import KINDS, Provenance, Table, TableSet, make_table

FORMAT = 1
MANIFEST = "table.yaml"
_SUFFIXES = (".csv", ".csv.gz", ".parquet")
_TEXT = "U64"  # the longest label that a CSV file may hold


def is_table_set(path: Path) -> bool:
    """Whether `path` is a folder or zip in our format."""
    if path.is_dir():
        return (path / MANIFEST).is_file()
    return zipfile.is_zipfile(path)


def load_tables(path: Path) -> TableSet:
    """The table set in a folder or zip. A kind's file is read when first asked for.

    Raises InputError for a file that is no table set, and for one that names what is wrong with it.
    """
    root: Path | zipfile.Path
    if path.is_dir():
        root = path
    elif zipfile.is_zipfile(path):
        root = zipfile.Path(path)
    else:
        found = "no such file or folder" if not path.exists() else "neither a folder nor a zip file"
        raise InputError(str(path), found, f"a table set: a folder or a zip file with {MANIFEST}")
    manifest = root / MANIFEST
    if not manifest.is_file():
        raise InputError(str(path), f"no {MANIFEST} in it", "a table set; `servecast costmodel import` makes one")
    where = f"{path}/{MANIFEST}"
    data = parse_yaml(manifest.read_text(encoding="utf-8"), Path(where))
    if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
        raise InputError(where, "no `format`, or another one", f"format: {FORMAT}")
    try:
        provenance = build(Provenance, data)
    except InputError as error:
        raise error.at(f"{where}:") from None
    tables: dict[str, Callable[[], Table]] = {}
    for entry in root.iterdir():
        kind, suffix = _split(entry.name)
        if suffix is None:
            continue
        if kind not in KINDS:
            expected = "one of " + ", ".join(sorted(KINDS))
            raise InputError(
                f"{path}/{entry.name}", f"no kind of table is called {kind!r}", expected, nearest_name(kind, KINDS)
            )
        if kind in tables:
            raise InputError(str(path), f"two files for {kind}", "one file a kind")
        tables[kind] = _reader(kind, entry, f"{path}/{entry.name}")
    if not tables:
        raise InputError(str(path), "no tables in it", "files named after kinds: " + ", ".join(sorted(KINDS)))
    return TableSet(provenance, tables, str(path))


def _split(name: str) -> tuple[str, str | None]:
    for suffix in _SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix), suffix
    return name, None


def _reader(kind: str, entry: Path | zipfile.Path, where: str) -> Callable[[], Table]:
    def read() -> Table:
        texts = {name for name, label in KINDS[kind].labels.items() if label is str}
        return make_table(kind, read_columns(entry.read_bytes(), where, texts), where)

    return read


def read_columns(data: bytes, where: str, texts: Collection[str] | None = None) -> dict[str, Array]:
    """The columns of a CSV, gzipped CSV or Parquet file; `where` ends in the file's name.

    texts : columns of a CSV file that are text; None: those whose first cell is no number.
    """
    if where.endswith(".parquet"):
        return _parquet_columns(data, where)
    try:
        text = (gzip.decompress(data) if where.endswith(".gz") else data).decode()
    except (OSError, EOFError, ValueError) as error:
        raise InputError(where, f"cannot be read ({error})", "UTF-8 text") from None
    head, _, body = text.partition("\n")
    names = [name.strip() for name in head.split(",")]
    if len(set(names)) < len(names):
        raise InputError(where, "two columns of the same name", "each name once")
    if texts is None:
        first = body.partition("\n")[0].split(",")
        texts = {name for name, cell in zip(names, first, strict=False) if not _is_number(cell)}
    if not body.strip():
        return {name: np.array([]) for name in names}
    dtype = [(f"f{i}", _TEXT if name in texts else "f8") for i, name in enumerate(names)]
    try:
        rows = np.loadtxt(io.StringIO(body), dtype, comments=None, delimiter=",", ndmin=1)
    except ValueError as error:
        raise InputError(where, str(error), f"{len(names)} cells a row, numbers where the kind has numbers") from None
    return {name: rows[f"f{i}"] for i, name in enumerate(names)}


def _is_number(cell: str) -> bool:
    try:
        float(cell or "nan")
    except ValueError:
        return False
    return True


def _parquet_columns(data: bytes, where: str) -> dict[str, Array]:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        expected = "pip install 'servecast[parquet]', or the table as CSV"
        raise InputError(where, "a Parquet file, and pyarrow is not installed", expected) from None
    try:
        table = pq.read_table(io.BytesIO(data))
    except Exception as error:  # pyarrow has many
        raise InputError(where, f"not a Parquet file ({error})", "a Parquet file") from None
    columns: dict[str, Array] = {}
    for name in table.column_names:
        column = table.column(name)
        if str(column.type) in ("string", "large_string"):
            codes = column.combine_chunks().dictionary_encode()
            columns[name] = np.array(codes.dictionary.to_pylist() or [""])[codes.indices.to_numpy()]
        else:
            columns[name] = column.to_numpy()
    return columns


def save_tables(tables: TableSet, path: Path, parquet: bool = False) -> None:
    """Write a table set as a zip where `path` ends in .zip, else as a folder; complete or not at all.

    Raises InputError where something else is already there.
    """
    if path.exists() and not is_table_set(path):
        raise InputError(str(path), "exists and is no table set", "a new name")
    partial = path.with_name(path.name + ".partial")
    files = {MANIFEST: _manifest(tables.provenance)}
    for kind in tables.kinds:
        table = tables.get(kind)
        assert table is not None
        suffix, write = (".parquet", _parquet_bytes) if parquet else (".csv", _csv_bytes)
        if suffix == ".csv" and path.suffix != ".zip":
            files[f"{kind}.csv.gz"] = gzip.compress(write(table.sorted()), mtime=0)
        else:
            files[kind + suffix] = write(table.sorted())
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
        os.replace(partial, path)
        return
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for name, data in files.items():
        (partial / name).write_bytes(data)
    if path.exists():
        shutil.rmtree(path)
    partial.rename(path)


def _manifest(provenance: Provenance) -> bytes:
    values: dict[str, Any] = {"format": FORMAT, **dataclasses.asdict(provenance)}
    values["notes"] = list(provenance.notes)
    text: str = yaml.safe_dump(values, sort_keys=False, width=110, allow_unicode=True)
    return text.encode()


def _columns(table: Table) -> dict[str, Array]:
    """The columns as a file has them: whole numbers as such, times in microseconds."""
    spec = KINDS[table.kind]
    columns: dict[str, Array] = {}
    for name in spec.keys:
        column = table.columns[name]
        whole = column.dtype.kind == "f" and (column == np.round(column)).all()
        columns[name] = column.astype(np.int64) if whole else column
    columns[spec.value or "time_us"] = table.values if spec.value else table.values * 1e6
    if table.watts is not None:
        columns["power_w"] = table.watts
    return columns


def _csv_bytes(table: Table) -> bytes:
    columns = _columns(table)
    cells = [
        [f"{v:.9g}" for v in column.tolist()] if column.dtype.kind == "f" else list(map(str, column.tolist()))
        for column in columns.values()
    ]
    lines = [",".join(columns), *map(",".join, zip(*cells, strict=True))]
    return ("\n".join(lines) + "\n").encode()


def _parquet_bytes(table: Table) -> bytes:
    import pyarrow
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(pyarrow.table(_columns(table)), out, compression="zstd")
    return out.getvalue()
