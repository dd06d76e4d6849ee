"""The sub-command `servecast sweep`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from contextlib import closing, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from .status_line import StatusLine

if TYPE_CHECKING:  # a handler imports what it uses: the command line must start fast
    from .executors import Executor
    from .ledger import Row
    from .sweep import Prepared, Tally


def add_arguments(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the sub-command; it sets `handler`, a function of the parsed arguments to the exit code."""
    sweep = subparsers.add_parser(
        "sweep",
        help="many runs over plans, policies, loads, traces and seeds; resumable",
        description="Do every run that a sweep's file describes, once each. The same command goes on where an earlier "
        "one was stopped or killed, and ends with the same files.",
    )
    sweep.add_argument("spec", metavar="SPEC", type=Path, help="the sweep's file: base, runs and grid (YAML)")
    sweep.add_argument("--out", metavar="DIR", type=Path, required=True, help="ledger, reports, table and plot go here")
    sweep.add_argument(
        "--executor",
        choices=("local", "ray"),
        default="local",
        help="processes on this machine, or the Ray cluster of RAY_ADDRESS (default local)",
    )
    sweep.add_argument("--workers", metavar="N", type=int, help="runs at once (default: as many as there are CPUs)")
    sweep.add_argument(
        "--retries",
        metavar="N",
        type=int,
        default=1,
        help="tries after a run has failed by no mistake in its input (default 1)",
    )
    sweep.add_argument("--retry-failed", action="store_true", help="also do the runs again that have failed for good")
    sweep.add_argument("--json", action="store_true", help="print the summary as JSON")
    sweep.set_defaults(handler=sweep_command)


def sweep_command(args: argparse.Namespace) -> int:
    """Run what is missing, then write `sweep.csv` and `sweep.png`."""
    from .spec import load_sweep
    from .sweep import prepare

    if args.workers is not None and args.workers < 1:
        raise InputError("--workers", str(args.workers), "at least 1")
    if args.retries < 0:
        raise InputError("--retries", str(args.retries), "0 or more")
    prepared = prepare(load_sweep(args.spec))
    for text in prepared.merged:
        print(f"merged: {text}", file=sys.stderr)
    # Ray tells of dead nodes on standard output, which is for the summary.
    with redirect_stdout(sys.stderr), closing(_executor(args, prepared)) as executor:
        before, rows = _run(args, prepared, executor)
    extra = len(rows) - len(prepared.jobs)
    if extra:
        print(f"left out of the table: {extra} runs in the ledger that {args.spec} no longer names", file=sys.stderr)
    return _finish(args, [rows[fingerprint] for fingerprint in prepared.jobs], before)


def _executor(args: argparse.Namespace, prepared: Prepared) -> Executor:
    if args.executor == "ray":
        from .ray_executor import RayExecutor

        return RayExecutor(args.workers, prepared.sources)
    from .executors import LocalExecutor

    return LocalExecutor(args.workers or os.cpu_count() or 1)


def _run(args: argparse.Namespace, prepared: Prepared, executor: Executor) -> tuple[Tally, dict[str, Row]]:
    """Where the sweep stood, and the ledger's rows after it."""
    from .sweep import Sweep, open_ledger

    line = StatusLine()
    with closing(open_ledger(prepared, args.out, args.retry_failed)) as ledger:
        sweep = Sweep(prepared, ledger, args.out, args.retries)
        before = sweep.tally()

        def progress(tally: Tally) -> None:
            more = f"runs, {tally.failed:,} failed, {tally.running:,} running"
            line.bar(tally.ended, before.ended, tally.runs, more)

        try:
            sweep.run(executor, progress)
        except (KeyboardInterrupt, InputError):
            line.close()
            now = sweep.tally()
            kept = f"{now.ended:,} of {now.runs:,} runs have ended and are kept in {args.out}"
            print(f"stopped: {kept}; the same command goes on from there", file=sys.stderr)
            raise
        line.close()
        return before, ledger.rows()


def _finish(args: argparse.Namespace, rows: list[Row], before: Tally) -> int:
    """Write what is about all runs, print the summary, and give the exit code."""
    from .plots import write_sweep_plot
    from .table import records, write_table

    table = records(rows, args.out)
    write_table(table, args.out / "sweep.csv")
    write_sweep_plot(table, list(dict.fromkeys(key for row in rows for key in row.settings)), args.out / "sweep.png")
    failures = Counter(row.error for row in rows if row.status == "failed")
    broken = sum(not record["invariants_hold"] for record in table if record["status"] == "done")
    summary = {
        "out": str(args.out), "runs": len(rows), "done": len(rows) - failures.total(), "done_before": before.done,
        "failed": failures.total(), "failures": dict(failures), "broken_invariants": broken,
    }  # fmt: skip
    if args.json:
        print(json.dumps(summary, indent=1))
    else:
        print(_told(summary))
    return 1 if failures or broken else 0


def _told(summary: dict[str, Any]) -> str:
    earlier = f" ({summary['done_before']:,} of them earlier)" if summary["done_before"] else ""
    lines = [f"{summary['done']:,} of {summary['runs']:,} runs done{earlier}, {summary['failed']:,} failed"]
    lines += [f"  {count:,} x {error}" for error, count in summary["failures"].items()]
    if summary["broken_invariants"]:
        lines.append(f"BROKEN INVARIANTS (please report) in {summary['broken_invariants']} runs")
    lines.append(f"table in {summary['out']}/sweep.csv, reports in {summary['out']}/runs")
    return "\n".join(lines)
