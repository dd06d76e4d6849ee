"""The sub-command `servecast compare`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

RUN = """results of `servecast simulate --out`, or a recorded run (a folder with run.json and real_requests.csv, or the
JSON of `vllm bench serve --save-detailed`)"""


def add_arguments(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the sub-command; it sets `handler`, a function of the parsed arguments to the exit code."""
    compare = subparsers.add_parser(
        "compare",
        help="runs of the same trace side by side, request by request",
        description="Compare runs of the same trace, simulated or measured, request by request; differences with 95 %% "
        "intervals over batches of arrivals.",
    )
    compare.add_argument("runs", metavar="RUN", nargs="+", help=f"two or more; the first is the base. {RUN}")
    compare.add_argument("--names", metavar="A,B", help="what to call the runs, in order")
    compare.add_argument("--out", metavar="DIR", type=Path, help="write compare.json and compare.html here")
    compare.add_argument("--json", action="store_true", help="print compare.json instead of a table")
    compare.set_defaults(handler=compare_command)


def compare_command(args: argparse.Namespace) -> int:
    """Read, compare, write, print."""
    from ..errors import InputError
    from ..sim.report.write import json_text, prepare_folder, write_bytes, write_json
    from .compare import compare

    if len(args.runs) < 2:
        raise InputError("RUN", "one run", "two or more")
    result = compare(*args.runs, names=args.names.split(",") if args.names else None)
    if args.out:
        from .compare_output import comparison_page

        prepare_folder(args.out)
        write_json(result.as_dict(), args.out / "compare.json")
        write_bytes(comparison_page(result).encode(), args.out / "compare.html")
    print(json_text(result.as_dict()) if args.json else repr(result))
    return 0
