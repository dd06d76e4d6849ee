"""The sub-commands `servecast slo check` and `servecast slo accept`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a handler imports what it uses: the command line must start fast
    from .check import Result


def add_arguments(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the sub-commands; each sets `handler`, a function of the parsed arguments to the exit code."""
    slo = subparsers.add_parser("slo", help="a gate for CI: objectives and committed baselines")
    commands = slo.add_subparsers(dest="slo_command", metavar="COMMAND", required=True)
    check = commands.add_parser(
        "check",
        help="run the cases of a gate and compare with limits and baselines",
        description="Run every case of a gate: 0 all objectives met, 1 one failed or regressed, 2 a mistake in the "
        "input or nothing to compare with, 3 (with --strict) the prediction is not good enough to tell.",
    )
    check.add_argument("file", metavar="SLOS", type=Path, help="the gate's file (YAML)")
    check.add_argument("--strict", action="store_true", help="exit with 3 where a verdict is unsure")
    check.add_argument("--out", metavar="DIR", type=Path, help="write slo.json, slo.xml (JUnit) and slo.md here")
    check.add_argument("--json", action="store_true", help="print slo.json instead of a table")
    check.set_defaults(handler=check_command)
    accept = commands.add_parser(
        "accept",
        help="run the cases and commit what they say as baselines",
        description="Write the baseline of every case, or of those named; the diff is reviewed like code.",
    )
    accept.add_argument("file", metavar="SLOS", type=Path, help="the gate's file (YAML)")
    accept.set_defaults(handler=accept_command)
    for parser in (check, accept):
        parser.add_argument("--case", metavar="NAME", action="append", help="only this case; may be repeated")


def check_command(args: argparse.Namespace) -> int:
    """Run, print, write, judge."""
    from ...sim.report.write import json_text, prepare_folder, write_bytes, write_json
    from .cases import load_gate
    from .check import check
    from .outputs import as_dict, as_junit, as_markdown, as_text

    gate = load_gate(args.file, args.case)
    if args.out:
        prepare_folder(args.out)
    results: list[Result] = []
    for result in check(gate):
        results.append(result)
        if not args.json:
            print(as_text([result]), flush=True)
    code = exit_code(results, args.strict)
    if args.out:
        write_json(as_dict(results, code), args.out / "slo.json")
        write_bytes(as_junit(results), args.out / "slo.xml")
        write_bytes(as_markdown(results).encode(), args.out / "slo.md")
    if args.json:
        print(json_text(as_dict(results, code)))
    return code


def exit_code(results: list[Result], strict: bool) -> int:
    """1 where something failed or regressed, else 2 where something is invalid, else 3 where `strict` and unsure."""
    from .outputs import worst
    from .verdicts import Verdict

    verdict = worst(results)
    codes = {Verdict.FAIL: 1, Verdict.REGRESS: 1, Verdict.INVALID: 2, Verdict.UNSURE: 3 if strict else 0}
    return codes.get(verdict, 0)


def accept_command(args: argparse.Namespace) -> int:
    """Write the baselines, each when its case has run."""
    from ...sim.report.write import prepare_folder
    from .baseline import read_baseline, write_baseline
    from .cases import load_gate
    from .check import accept, trace_reader

    gate = load_gate(args.file, args.case)
    prepare_folder(gate.baselines)
    traces = trace_reader()
    for case in gate.cases:
        path = gate.baselines / f"{case.name}.json"
        before, now = read_baseline(path), accept(case, traces)
        write_baseline(now, path)
        state = "as it was" if before == now else "changed" if before else "new"
        print(f"{path}: {state}")
    sys.stdout.flush()
    return 0
