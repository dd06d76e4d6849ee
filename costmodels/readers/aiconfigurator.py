"""Reader of aiconfigurator's kernel tables: a folder of them, or the user's installed `aiconfigurator` package.

Source: ai-dynamo/aiconfigurator, `systems/data` (commit 095f58a5). Latencies are milliseconds of one call, kernel only;
messages are counted in elements. A file is named after its operator; GPU, engine and version are in its path
(`h100_sxm/gemm/vllm/0.24.0/gemm_perf.parquet`, older `h100_sxm/vllm/0.11.0/gemm_perf.txt`) or in its name
(`h100_sxm/gemm.vllm0.24.0.parquet`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np

from ...errors import InputError, unknown_name
from ..grid import Array
from ..table import KINDS, Provenance, Table, TableSet, make_table
from ..tablefile import read_columns

PACKAGES = ("aiconfigurator-core", "aiconfigurator")
_SUFFIXES = (".parquet", ".csv", ".txt")
_NUMBER_TYPES = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16"}
_BYTES = {"bfloat16": 2, "float16": 2, "half": 2, "fp8": 1, "int8": 1}
_CARDS = {"h100_sxm": "h100", "h200_sxm": "h200", "a100_sxm": "a100-80gb", "b200_sxm": "b200", "l40s": "l40s"}
_OPERATIONS = {"alltoall": "all_to_all"}
_BACKENDS = {"vllm_eager": "custom_eager", "vllm_graph": "custom_graph"}


@dataclass(frozen=True)
class Source:
    """One file: which operator, on which GPU, of which engine version; `power` where the file has measured power."""

    path: Path
    operator: str
    gpu: str
    engine: str
    version: str
    power: bool = False

    @property
    def release(self) -> tuple[int, ...]:
        """The version's numbers, for comparison."""
        return tuple(int(n) for n in re.findall(r"\d+", self.version))


def fits(path: Path) -> bool:
    """Whether a folder holds such tables."""
    return path.is_dir() and next(sources(path), None) is not None


def sources(path: Path) -> Iterator[Source]:
    """The files below a folder that this reader understands."""
    for file in sorted(path.rglob("*")):
        if file.suffix in _SUFFIXES:
            found = _by_name(file) or _by_folders(file)
            if found and found.operator in _READERS:
                yield found


def installed() -> Path:
    """The folder of tables in the installed package.

    Raises InputError where none is installed.
    """
    for name in PACKAGES:
        try:
            files = distribution(name).files or []
        except PackageNotFoundError:
            continue
        inside = [file for file in files if "systems/data" in file.as_posix()]
        if inside:
            path = Path(str(inside[0].locate()))
            return next(parent for parent in path.parents if parent.name == "data")
    raise InputError("aiconfigurator", "not installed with its tables", "`pip install aiconfigurator`, or a folder")


def read(
    path: Path | None = None, *, gpu: str | None = None, engine: str | None = None, version: str | None = None,
    power: bool = False,
) -> TableSet:  # fmt: skip
    """The tables of one GPU and engine version as one set.

    path : a folder; None: those of the installed package. gpu (as there, or our card's name), engine, version : which
        of the tables there, needed where there are several; of versions the latest counts.
    power : the tables that were measured with power, where a version has both.

    Of rows with the same keys (one a kernel) the fastest is kept, as an engine chooses; the provenance says how many.
    Raises InputError where the folder holds no such tables, or several of what was not named.
    """
    root = installed() if path is None else path
    found = list(sources(root))
    if not found:
        expected = "files like gemm_perf.parquet or gemm.vllm0.24.0.parquet"
        raise InputError(str(root), "no tables of aiconfigurator", expected)
    gpu = _one(root, "gpu", next((g for g in _CARDS if _CARDS[g] == gpu), gpu), {source.gpu for source in found})
    found = [source for source in found if source.gpu == gpu]
    engine = _one(root, "engine", engine, {source.engine for source in found} - {"nccl"})
    files = _latest([source for source in found if source.engine == engine], version, power, root)
    files |= _latest([source for source in found if source.engine == "nccl"], None, power, root)
    tables: dict[str, Table] = {}
    dropped = 0
    for source in files.values():
        for table in _READERS[source.operator](source):
            table, twice = _fastest(table)
            dropped += twice
            tables[table.kind] = _joined(tables.get(table.kind), table)
    versions = sorted({source.version for source in files.values() if source.engine == engine})
    paths = sorted(source.path.relative_to(root).as_posix() for source in files.values())
    provenance = Provenance(
        gpu=gpu,
        source="ai-dynamo/aiconfigurator, " + ", ".join(paths),
        licence="Apache-2.0 (NVIDIA)",
        hardware=_CARDS.get(gpu),
        engine=f"{engine} {', '.join(versions)}",
        software={source.engine: source.version for source in files.values() if source.engine != engine},
        grid="products of lists of sizes, see each table's axes",
        notes=(f"{dropped} slower rows of a kernel with the same keys left out",) if dropped else (),
    )
    return TableSet(provenance, tables, str(root))


def _by_name(file: Path) -> Source | None:
    """`h100_sxm/gemm.vllm0.24.0.parquet`, `h100_sxm/nccl.2.29.2.parquet`."""
    match = re.fullmatch(r"(\w+)\.([a-z]*)(\d[\w.]*?)(\.power)?\.(parquet|csv|txt)", file.name)
    if not match:
        return None
    operator, engine, version, power, _ = match.groups()
    return Source(file, operator, file.parent.name, engine or operator, version, bool(power))


def _by_folders(file: Path) -> Source | None:
    """`h100_sxm/gemm/vllm/0.24.0/gemm_perf.parquet`, or without the folder of the operator's family."""
    folders = file.parent.parts
    if not file.stem.endswith("_perf") or "data" not in folders:
        return None
    below = folders[len(folders) - folders[::-1].index("data") :]
    if len(below) < 3:
        return None
    return Source(file, file.stem.removesuffix("_perf"), below[0], below[-2], below[-1])


def _one(root: Path, key: str, wanted: str | None, there: set[str]) -> str:
    if wanted is not None and wanted not in there:
        raise unknown_name(f"--{key}", f"{key} of {root}", wanted, there)
    if wanted is None and len(there) != 1:
        raise InputError(str(root), f"tables of {', '.join(sorted(there))}", f"--{key} to say which")
    return wanted or there.pop()


def _latest(found: list[Source], version: str | None, power: bool, root: Path) -> dict[str, Source]:
    """The file of each operator: of `version`, else the latest, those with power only where asked for."""
    if version is not None and version not in {source.version for source in found}:
        raise unknown_name("--version", f"version in {root}", version, {source.version for source in found})
    chosen: dict[str, Source] = {}
    for source in sorted(found, key=lambda source: (source.power is power, source.release)):
        if version in (None, source.version) and (power or not source.power):
            chosen[source.operator] = source
    return chosen


def _fastest(table: Table) -> tuple[Table, int]:
    """One row for each key, the fastest, and how many were dropped."""
    names = KINDS[table.kind].keys
    order = np.lexsort((table.values, *(table.columns[name] for name in reversed(names))))
    first = np.zeros(len(table), bool)
    first[0] = True
    for name in names:
        column = table.columns[name][order]
        first[1:] |= column[1:] != column[:-1]
    return table.take(order[first]), int((~first).sum())


def _joined(before: Table | None, table: Table) -> Table:
    if before is None:
        return table
    columns = {name: np.concatenate([before.columns[name], table.columns[name]]) for name in table.columns}
    power = None if before.watts is None or table.watts is None else np.concatenate([before.watts, table.watts])
    return Table(table.kind, columns, np.concatenate([before.values, table.values]), power)


# -- one operator ------------------------------------------------------------------------------------------------


class _File:
    """The columns of a file, and the table of them."""

    def __init__(self, source: Source) -> None:
        self.where = str(source.path)
        name = self.where if source.path.suffix != ".txt" else self.where + ".csv"
        self._columns = read_columns(source.path.read_bytes(), name)

    def __getitem__(self, name: str) -> Array:
        if name not in self._columns:
            raise InputError(self.where, f"no column {name!r}", "one of " + ", ".join(self._columns))
        return self._columns[name]

    def get(self, name: str, default: float) -> Array:
        return self._columns.get(name, np.full(len(self["latency"]), default))

    def types(self, name: str) -> Array:
        """A column of number types, in our names."""
        return _renamed(self[name], _NUMBER_TYPES)

    def table(self, kind: str, keys: dict[str, Array]) -> Iterator[Table]:
        columns = {**keys, "time_ms": self["latency"]}
        if "power" in self._columns:
            columns["power_w"] = self["power"]
        yield make_table(kind, columns, self.where)


def _renamed(column: Array, names: dict[str, str]) -> Array:
    texts, codes = np.unique(column.astype(str), return_inverse=True)
    return np.array([names.get(text, text) for text in texts.tolist()])[codes]


def _gemm(source: Source) -> Iterator[Table]:
    file = _File(source)
    return file.table("gemm", {"dtype": file.types("gemm_dtype"), "n": file["n"], "k": file["k"], "m": file["m"]})


def _attention(file: _File) -> dict[str, Array]:
    heads, kv_heads = file["num_heads"].astype(int), file["num_key_value_heads"].astype(int)
    return {
        "dtype": file.types("attn_dtype"),
        "kv_dtype": file.types("kv_cache_dtype"),
        "heads": heads,
        "kv_heads": np.where(kv_heads > 0, kv_heads, heads),  # 0 stands for multi-head attention in older tables
        "head_dim": file["head_dim"],
        "window": file.get("window_size", 0),
        "batch": file["batch_size"],
    }


def _context_attention(source: Source) -> Iterator[Table]:
    file = _File(source)
    keys = {**_attention(file), "chunk": file["isl"], "context": file["step"]}
    return file.table("prefill_attention", keys)


def _generation_attention(source: Source) -> Iterator[Table]:
    """`isl` + `step` tokens are in the cache after the call, so one fewer before it."""
    file = _File(source)
    return file.table("decode_attention", {**_attention(file), "context": file["isl"] + file["step"] - 1})


def _moe(source: Source) -> Iterator[Table]:
    file = _File(source)
    keys = {
        "dtype": file.types("moe_dtype"),
        "hidden": file["hidden_size"],
        "inter": file["inter_size"],
        "topk": file["topk"],
        "experts": file["num_experts"],
        "tp": file["moe_tp_size"],
        "ep": file["moe_ep_size"],
        "routing": file["distribution"],
        "tokens": file["num_tokens"],
    }
    return file.table("moe", keys)


def _messages(file: _File, dtype: str, operation: Array, backend: Array) -> Iterator[Table]:
    """By bytes: a message counts elements of its type."""
    types = file[dtype].astype(str)
    known = np.isin(types, list(_BYTES))
    if not known.all():
        raise unknown_name(f"{file.where}: {dtype}", "number type", str(types[~known][0]), _BYTES)
    size = np.array([_BYTES[name] for name in types.tolist()]) * file["message_size"]
    return file.table("collective", {"op": operation, "ranks": file["num_gpus"], "backend": backend, "bytes": size})


def _custom_allreduce(source: Source) -> Iterator[Table]:
    file = _File(source)
    backend = _renamed(file["backend"], _BACKENDS)
    return _messages(file, "allreduce_dtype", np.full(len(backend), "all_reduce"), backend)


def _nccl(source: Source) -> Iterator[Table]:
    file = _File(source)
    operation = _renamed(file["op_name"], _OPERATIONS)
    return _messages(file, "nccl_dtype", operation, np.full(len(operation), "nccl"))


_READERS: dict[str, Callable[[Source], Iterator[Table]]] = {
    "gemm": _gemm,
    "context_attention": _context_attention,
    "generation_attention": _generation_attention,
    "moe": _moe,
    "custom_allreduce": _custom_allreduce,
    "nccl": _nccl,
}
