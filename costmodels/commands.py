"""The sub-commands `servecast costmodel import | describe | check`."""

from __future__ import annotations

import argparse
import inspect
import json
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:  # a handler imports what it uses: the command line must start fast
    from .table import TableSet

READERS = ("aiconfigurator", "vidur_elementwise")  # modules of `readers`, each with `fits` and `read`
PACKAGE = "aiconfigurator"  # this word for a source means the installed package


def add_arguments(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add `costmodel` and its sub-commands; each sets `handler`, a function of the arguments to the exit code."""
    costmodel = subparsers.add_parser("costmodel", help="measured operator times: import, describe and check tables")
    actions = costmodel.add_subparsers(dest="action", required=True, metavar="ACTION")

    imported = actions.add_parser("import", help="read tables that others publish and write them in our format")
    imported.add_argument(
        "sources",
        metavar="SOURCE",
        nargs="+",
        help=f"a folder, or `{PACKAGE}`: the installed package; several are joined",
    )
    imported.add_argument("--out", metavar="PATH", type=Path, required=True, help="a new folder, or a file in .zip")
    imported.add_argument("--reader", choices=READERS, help="otherwise found by content")
    imported.add_argument("--gpu", help="where a source has several")
    imported.add_argument("--engine", help="where a source has several")
    imported.add_argument("--engine-version", metavar="V", help="otherwise the latest")
    imported.add_argument("--power", action="store_true", default=None, help="the tables measured with power")
    imported.add_argument("--parquet", action="store_true", help="write Parquet instead of CSV")
    imported.set_defaults(handler=import_command)

    describe = actions.add_parser("describe", help="provenance, kinds and ranges of a table set")
    _reading(describe)
    describe.set_defaults(handler=describe_command)

    check = actions.add_parser(
        "check",
        help="interpolation error, impossible times, and what a model would miss; exit 1 when something is wrong",
    )
    _reading(check)
    check.add_argument("--hardware", metavar="H", help="card for the sanity bound (otherwise the tables' own)")
    check.add_argument("--model", metavar="M", help="say which operators of this model the tables lack")
    check.add_argument("--tensor-parallel-size", metavar="N", type=int, default=1, help="with --model (default 1)")
    check.add_argument("--enable-expert-parallel", action="store_true", help="with --model: whole experts on a rank")
    check.add_argument("--quantization", metavar="Q", help="with --model: its weight format")
    check.add_argument("--kv-cache-dtype", metavar="D", default="auto", help="with --model (default its own)")
    check.set_defaults(handler=check_command)


def _reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tables", metavar="TABLES", type=Path, help="a table set: a folder or a zip file")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def import_command(args: argparse.Namespace) -> int:
    """Read every source, join their kinds, write one table set."""
    from .tablefile import save_tables

    options = {"gpu": args.gpu, "engine": args.engine, "version": args.engine_version, "power": args.power}
    given = {name: value for name, value in options.items() if value is not None}
    tables = read_source(args.sources[0], args.reader, given)
    for source in args.sources[1:]:
        tables = tables.joined(read_source(source, args.reader, given))
    save_tables(tables, args.out, args.parquet)
    rows = sum(len(table) for kind in tables.kinds if (table := tables.get(kind)))
    print(f"wrote {args.out}: {rows:,} rows of {', '.join(tables.kinds)}")
    return 0


def read_source(source: str, reader: str | None = None, options: dict[str, Any] | None = None) -> TableSet:
    """The tables of a source in any format that a reader knows.

    options : of the reader; one that only some readers take, such as a GPU's name in that source, may be given to all.

    Raises InputError where no reader knows the format.
    """
    from .tablefile import is_table_set, load_tables

    path = Path(source).expanduser()
    if source == PACKAGE and not path.exists():
        return _read("aiconfigurator", None, options or {})
    if reader is None and is_table_set(path):
        return load_tables(path)
    if not path.exists():
        raise InputError(source, "no such file or folder", f"a folder of tables, or `{PACKAGE}`")
    for name in [reader] if reader else READERS:
        if _module(name).fits(path):
            return _read(name, path, options or {})
    raise InputError(source, "no tables in a known format", "a source for one of " + ", ".join(READERS))


def _module(reader: str) -> Any:
    return import_module(f".readers.{reader}", __package__)


def _read(reader: str, path: Path | None, options: dict[str, Any]) -> TableSet:
    read = _module(reader).read
    known = inspect.signature(read).parameters
    tables: TableSet = read(path, **{name: value for name, value in options.items() if name in known})
    return tables


def describe_command(args: argparse.Namespace) -> int:
    """Where the tables come from, and what they span."""
    from .tablefile import load_tables

    tables = load_tables(args.tables)
    described = {
        "provenance": asdict(tables.provenance),
        "fingerprint": tables.fingerprint(),
        "kinds": tables.describe(),
    }
    if args.json:
        print(json.dumps(described, indent=1))
        return 0
    p = tables.provenance
    print(f"{args.tables}: {p.gpu}, {p.engine}, driver {p.driver}, {p.date}")
    print(f"  source {p.source}\n  licence {p.licence}\n  grid {p.grid}\n  fingerprint {described['fingerprint']}")
    for note in p.notes:
        print(f"  note: {note}")
    for kind, facts in tables.describe().items():
        print(f"\n{kind}: {facts['rows']:,} rows{', with power' if facts['power'] else ''}")
        for name, values in facts["labels"].items():
            shown = ", ".join(map(str, values[:12]))
            print(f"  {name:<14}{shown}{' ...' if len(values) > 12 else ''}")
        for name, axis in facts["axes"].items():
            print(f"  {name:<14}{axis['points']} points from {axis['from']:g} to {axis['to']:g}")
    return 0


def check_command(args: argparse.Namespace) -> int:
    """Interpolation error, impossible times, doubtful keys; with a model, what would fall back to the roofline."""
    from ..configs.catalog import find_hardware
    from .tablecheck import check_tables
    from .tablefile import load_tables

    tables = load_tables(args.tables)
    name = args.hardware or tables.provenance.hardware
    hardware = find_hardware(name, "--hardware") if name else None
    found = check_tables(tables, hardware)
    if hardware is None:
        found["notes"].append("no hardware card: times were not compared with a data sheet (--hardware names one)")
    if args.model:
        found["model"] = _coverage(args, tables, name)
    if args.json:
        print(json.dumps({**found, "interpolation": [asdict(row) for row in found["interpolation"]]}, indent=1))
        return 1 if found["errors"] else 0
    print(f"{'leave one out':<20}{'type':<11}{'along':<16}{'points':>8}{'median':>9}{'p95':>9}{'bias':>9}")
    for row in found["interpolation"]:
        figures = f"{row.median:>9.2%}{row.p95:>9.2%}{row.bias:>+9.2%}" if row.points else f"{'-':>9}" * 3
        print(f"{row.kind:<20}{row.dtype:<11}{row.axis:<16}{row.points:>8,}{figures}")
    if args.model:
        _print_coverage(args, found["model"])
    for note in found["notes"]:
        print(f"note: {note}")
    for error in found["errors"]:
        print(f"wrong: {error}")
    return 1 if found["errors"] else 0


def _coverage(args: argparse.Namespace, tables: TableSet, hardware: str | None) -> dict[str, Any]:
    """Origin of each operator's time, and what share of typical batches the ones that fall back have."""
    from ..configs.catalog import find_hardware, find_model
    from ..configs.model import Parallelism, quantized
    from .tablecost import MeasuredCost

    if hardware is None:
        raise InputError("--hardware", "missing", "the name of a hardware card, for what falls back to the roofline")
    model = find_model(args.model, "--model")
    if args.quantization:
        model = quantized(model, args.quantization, "--quantization")
    parallel = Parallelism(args.tensor_parallel_size, enable_expert_parallel=args.enable_expert_parallel)
    cost = MeasuredCost(tables, model, find_hardware(hardware), parallel, kv_cache_dtype=args.kv_cache_dtype)
    return {"operators": cost.times.origins(cost.operators), "fallback_share": cost.fallback_share()}


def _print_coverage(args: argparse.Namespace, model: dict[str, Any]) -> None:
    origins: dict[str, list[str]] = {}
    for operator, origin in model["operators"].items():
        origins.setdefault(origin, []).append(operator)
    print(f"\n{args.model}, tensor parallel {args.tensor_parallel_size}")
    for origin, operators in sorted(origins.items()):
        print(f"  {origin:<10}{', '.join(sorted(operators))}")
    for batch, shares in model["fallback_share"].items():
        parts = ", ".join(f"{name} {share:.1%}" for name, share in sorted(shares.items(), key=lambda item: -item[1]))
        print(f"  {sum(shares.values()):.1%} of a {batch} falls back to the roofline: {parts or 'nothing'}")
