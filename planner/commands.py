"""The sub-command `servecast plan`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..errors import InputError


def add_arguments(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the sub-command; it sets `handler`, a function of the parsed arguments to the exit code."""
    plan = subparsers.add_parser(
        "plan",
        help="search the cheapest plan that meets SLOs, or solve a planning instance",
        description="Search the cheapest plan that meets SLOs, with a bound and the simulated outcome; or solve a "
        "published planning instance (--instance).",
    )
    plan.add_argument(
        "--instance", metavar="FILE", type=Path, help="a JSON file with GPU mixes or layer placements to solve"
    )
    plan.add_argument(
        "--time-limit", metavar="S", type=float, default=4.0, help="seconds an instance may take (default 4)"
    )
    plan.add_argument("--solver", choices=("highs", "cbc", "scipy"), help="of integer programs (default highs)")
    plan.add_argument("--seed", metavar="N", type=int, default=0, help="of every random stream (default 0)")
    plan.add_argument("--json", action="store_true", help="machine-readable output")
    plan.set_defaults(handler=plan_command)


def plan_command(args: argparse.Namespace) -> int:
    """Solve what the flags ask for."""
    if args.time_limit <= 0:
        raise InputError("--time-limit", f"{args.time_limit:g}", "seconds above 0")
    if args.instance is None:
        raise InputError("--instance", "missing", "a JSON file")
    return _instance_command(args)


def _instance_command(args: argparse.Namespace) -> int:
    from .instances import solve_file, table
    from .milp import default_solver

    solver = args.solver or default_solver()
    results = list(solve_file(args.instance, solver=solver, time_limit=args.time_limit, seed=args.seed))
    print(json.dumps(results, indent=1) if args.json else table(results))
    return 0
