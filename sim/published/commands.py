"""The sub-command `servecast validate-table`: published closed-loop measurements, replayed and compared."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InputError, unknown_name

if TYPE_CHECKING:  # the handler imports what it uses: the command line must start fast
    from .compare import Comparison, Errors
    from .predict import Prediction
    from .rows import BenchRow


def add_arguments(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the sub-command; it sets `handler`, a function of the parsed arguments to the exit code."""
    parser = subparsers.add_parser(
        "validate-table",
        help="replay a table of published measurements and compare; exit 1 when a limit is missed",
        description="Replay every row of a table of closed-loop measurements (aiconfigurator's format) and compare the "
        "mean TTFT and TPOT. Errors are medians of |predicted / measured - 1| over the half of the rows that no "
        "constant was fitted on.",
    )
    parser.add_argument("rows", metavar="ROWS", type=Path, help="CSV, plain or gzip")
    parser.add_argument("--cost", metavar="TABLES", required=True, help="a table set (servecast costmodel import)")
    parser.add_argument("--hardware", metavar="H", default="h100", help="card of the measured GPU (default h100)")
    parser.add_argument("--others", metavar="CSV", type=Path, help="another tool's predictions of some of the rows")
    parser.add_argument("--engine", metavar="E", help="only rows of this engine")
    parser.add_argument("--processes", metavar="N", type=int, default=1, help="rows replayed at a time (default 1)")
    parser.add_argument("--fit", metavar="PRESET", help="fit a preset's host constants on the other half")
    parser.add_argument("--out", metavar="DIR", type=Path, help="write rows.csv and table.json here")
    parser.add_argument("--max-ttft-error", metavar="X", type=float, help="of all rows held back, e.g. 0.25")
    parser.add_argument("--max-tpot-error", metavar="X", type=float, help="of all rows held back, e.g. 0.08")
    parser.add_argument("--min-coverage", metavar="X", type=float, help="share of the rows that must count")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.set_defaults(handler=validate_table_command)


def validate_table_command(args: argparse.Namespace) -> int:
    """Replay, compare, print and write; or fit."""
    from ..report.write import prepare_folder, write_json
    from .compare import compare, read_others
    from .predict import predict_all
    from .rows import by_engine, read_rows

    if args.processes < 1:
        raise InputError("--processes", str(args.processes), "at least 1")
    rows = read_rows(args.rows)
    if args.engine:
        engines = {row.engine for row in rows}
        if args.engine not in engines:
            raise unknown_name("--engine", f"engine in {args.rows}", args.engine, engines)
        rows = [row for row in rows if row.engine == args.engine]
    if args.fit:
        return _fit(args, rows)
    others = read_others(args.others) if args.others else {}
    if args.out:
        prepare_folder(args.out)
    found = predict_all(rows, args.hardware, args.cost, processes=args.processes)
    predictions = {prediction.id: prediction for prediction in found}
    comparisons = [compare(engine, some, predictions, others) for engine, some in by_engine(rows)]
    reasons = Counter((row.engine, row.model, predictions[row.id].reason) for row in rows)
    uncovered = [
        {"engine": engine, "model": model, "reason": reason, "rows": n}
        for (engine, model, reason), n in sorted(reasons.items(), key=str)
        if reason
    ]
    missed = _missed(args, comparisons[-1])
    report = {"comparisons": [asdict(c) for c in comparisons], "uncovered": uncovered, "missed": missed}
    if args.out:
        write_json(report, args.out / "table.json")
        _write_rows(rows, predictions, args.out / "rows.csv")
    if args.json:
        print(json.dumps(report, indent=1))
    else:
        _print(comparisons, uncovered, missed, bool(others))
    return 1 if missed else 0


def _fit(args: argparse.Namespace, rows: list[BenchRow]) -> int:
    from .fit import STARTS, fit
    from .rows import engine_of

    if args.fit not in STARTS:
        raise unknown_name("--fit", "preset with constants to fit", args.fit, STARTS)
    rows = [row for row in rows if engine_of(row) == args.fit]

    def shown(constants: dict[str, float]) -> None:
        if sys.stderr.isatty():
            print(", ".join(f"{name} {value:.3g}" for name, value in constants.items()), file=sys.stderr)

    constants = fit(args.fit, rows, args.hardware, args.cost, args.processes, shown)
    print(json.dumps({name: float(f"{value:.2g}") for name, value in constants.items()}, indent=1))
    return 0


def _missed(args: argparse.Namespace, everything: Comparison) -> list[str]:
    """The limits that were given and not kept."""
    missed = []
    held = everything.held
    for name, limit in (("ttft", args.max_ttft_error), ("tpot", args.max_tpot_error)):
        value = getattr(held, name) if held else 1.0
        if limit is not None and value > limit:
            missed.append(f"median {name.upper()} error {value:.1%}, allowed {limit:.1%}")
    coverage = everything.covered / max(1, everything.rows)
    if args.min_coverage is not None and coverage < args.min_coverage:
        missed.append(f"{coverage:.1%} of the rows covered, wanted {args.min_coverage:.1%}")
    return missed


def _write_rows(rows: list[BenchRow], predictions: dict[str, Prediction], path: Path) -> None:
    """One line a row: measured, predicted, origin of the time, whether it was held back, why it does not count."""
    from .compare import held_back

    names = "id,engine,version,model,isl,osl,concurrency,ttft_s,tpot_s,predicted_ttft_s,predicted_tpot_s"
    lines = [f"{names},measured_share,derived_share,held_back,reason"]
    for row in rows:
        p = predictions[row.id]
        times = [f"{value:.6g}" for value in (row.ttft, row.tpot, p.ttft, p.tpot)]
        shares = [f"{p.shares.get(origin, 0.0):.4f}" for origin in ("measured", "derived")]
        about = [row.id, row.engine, row.version, row.model, str(row.isl), str(row.osl), str(row.users)]
        reason = '"' + (p.reason or "").replace('"', "'") + '"'
        lines.append(",".join([*about, *times, *shares, str(held_back(row.id)).lower(), reason]))
    partial = path.with_name(path.name + ".partial")
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    partial.replace(path)


def _print(comparisons: list[Comparison], uncovered: list[dict[str, Any]], missed: list[str], others: bool) -> None:
    print("median |predicted / measured - 1| (bias), over the rows held back from every fit")
    print(f"{'':<10}{'rows':>6}{'count':>7}{'held':>6}{'TTFT':>18}{'TPOT':>18}")
    for c in comparisons:
        held = c.held.rows if c.held else 0
        print(f"{c.engine:<10}{c.rows:>6}{c.covered:>7}{held:>6}{_figures(c.held)}")
    if others:
        print("\non the rows that the other tool predicts: held back, and all of them")
        print(f"{'':<10}{'':>8}{'rows':>6}{'TTFT':>18}{'TPOT':>18}{'rows':>8}{'TTFT':>18}{'TPOT':>18}")
        for c in comparisons:
            for name, held_, all_ in (("ours", c.ours, c.ours_all), ("theirs", c.theirs, c.theirs_all)):
                label = c.engine if name == "ours" else ""
                rows = [each.rows if each else 0 for each in (held_, all_)]
                print(f"{label:<10}{name:>8}{rows[0]:>6}{_figures(held_)}{rows[1]:>8}{_figures(all_)}")
    if uncovered:
        print("\nrows that do not count")
        for entry in uncovered:
            print(f"{entry['rows']:>5}  {entry['engine']}, {entry['model']}: {entry['reason']}")
    for limit in missed:
        print(f"missed: {limit}")


def _figures(found: Errors | None) -> str:
    if found is None:
        return f"{'-':>18}" * 2
    texts = (f"{found.ttft:.1%} ({found.ttft_bias:+.1%})", f"{found.tpot:.1%} ({found.tpot_bias:+.1%})")
    return "".join(f"{text:>18}" for text in texts)
