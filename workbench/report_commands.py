"""The sub-command `servecast report`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_arguments(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the sub-command; it sets `handler`, a function of the parsed arguments to the exit code."""
    report = subparsers.add_parser(
        "report",
        help="results as one HTML page, a Perfetto trace, or OpenMetrics with vLLM's names",
        description="Turn the results of `servecast simulate --out` into a page for people or a file for other tools.",
    )
    report.add_argument("run", metavar="DIR", type=Path, help="results of `servecast simulate --out`")
    report.add_argument("--html", metavar="FILE", type=Path, help="one page, no network (default DIR/report.html)")
    report.add_argument("--perfetto", metavar="FILE", type=Path, help="a window's requests for Perfetto (JSON)")
    report.add_argument("--openmetrics", metavar="FILE", type=Path, help="time series under vLLM's metric names")
    report.add_argument("--window", metavar="START:END", help="seconds of page and trace (default: the busiest)")
    report.add_argument("--epoch", metavar="S", type=float, help="with --openmetrics: unix time of the run's start")
    report.set_defaults(handler=report_command)


def report_command(args: argparse.Namespace) -> int:
    """Write what was asked for."""
    from ..errors import InputError
    from ..sim.report.write import replace_file, write_bytes
    from .excerpt import parse_window
    from .html_report import report_page
    from .openmetrics import openmetrics
    from .perfetto import perfetto_trace

    if args.epoch is not None and not args.openmetrics:
        raise InputError("--epoch", "given without --openmetrics", "both or neither")
    window = None if args.window is None else parse_window(args.window)
    html = args.html or (None if args.perfetto or args.openmetrics else args.run / "report.html")
    if html:
        write_bytes(report_page(args.run, window).encode(), html)
    if args.perfetto:
        write_bytes(perfetto_trace(args.run, window).encode(), args.perfetto)
    if args.openmetrics:
        pieces = openmetrics(args.run, args.epoch)
        replace_file(args.openmetrics, lambda file: file.writelines(piece.encode() for piece in pieces))
    for path in (html, args.perfetto, args.openmetrics):
        if path:
            print(f"wrote {path}")
    return 0
