"""The sub-command `servecast plan`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..traces.commands import add_changing, add_reading, change_trace, read_trace

if TYPE_CHECKING:  # a handler imports what it uses: the command line must start fast
    from .search.planning import Options, Planned

_SEARCH_FLAGS = ("trace", "slo", "inventory")


def add_arguments(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the sub-command; it sets `handler`, a function of the parsed arguments to the exit code."""
    plan = subparsers.add_parser(
        "plan",
        help="search the cheapest plan that meets SLOs, or solve a planning instance",
        description="Search the cheapest plan that meets SLOs, with a bound and the simulated outcome; or solve a "
        "published planning instance (--instance).",
    )
    plan.add_argument("--trace", metavar="T", type=Path, help="a trace of any known format, or a parameter file")
    plan.add_argument("--slo", metavar="S", help="an SLO file, or the name of a bundled one")
    plan.add_argument("--inventory", metavar="I", type=Path, help="a file with the GPUs that may be rented")
    plan.add_argument("--out", metavar="DIR", type=Path, help="write plan.yaml, plan.json and pareto.png here")
    search = plan.add_argument_group("the search")
    search.add_argument(
        "--objective", choices=("cost", "energy", "goodput"), default="cost",
        help="least cost (default), least power, or also goodput per cost within the budget",
    )  # fmt: skip
    search.add_argument("--replays", metavar="N", type=int, default=40, help="replays of mixed fleets (default 40)")
    search.add_argument(
        "--gap", metavar="X", type=float, default=0.0, help="relative gap that is small enough (default 0)"
    )
    search.add_argument("--diverse", metavar="K", type=int, default=3, help="fleets tried a round (default 3)")
    search.add_argument("--pareto", action="store_true", help="also the front of cost against power")
    search.add_argument("--stress", metavar="LOW:HIGH", help="also under so much more load and slower work")
    search.add_argument("--no-compare", action="store_true", help="leave out what simpler rules would have rented")
    search.add_argument(
        "--exhaustive", action="store_true", help="also replay every fleet in order of cost (small spaces)"
    )
    search.add_argument("--cache", metavar="DIR", type=Path, help="of simulated points (default ~/.cache/servecast)")
    search.add_argument("--no-cache", action="store_true", help="neither read nor write simulated points")
    plan.add_argument(
        "--instance", metavar="FILE", type=Path, help="a JSON file with GPU mixes or layer placements to solve instead"
    )
    plan.add_argument(
        "--time-limit", metavar="S", type=float, default=4.0, help="seconds an instance may take (default 4)"
    )
    plan.add_argument("--solver", choices=("highs", "cbc", "scipy"), help="of integer programs (default highs)")
    plan.add_argument("--seed", metavar="N", type=int, default=0, help="of every random stream (default 0)")
    plan.add_argument("--json", action="store_true", help="machine-readable output")
    add_reading(plan)
    add_changing(plan)
    plan.set_defaults(handler=plan_command)


def plan_command(args: argparse.Namespace) -> int:
    """Solve what the flags ask for."""
    given = [name for name in _SEARCH_FLAGS if getattr(args, name) is not None]
    if args.instance is not None:
        if given:
            raise InputError("--instance", f"given together with --{given[0]}", "one of the two")
        return _instance_command(args)
    for name in _SEARCH_FLAGS:
        if name not in given:
            raise InputError(f"--{name}", "missing", "--trace, --slo and --inventory, or --instance")
    return _search_command(args)


def _instance_command(args: argparse.Namespace) -> int:
    from .instances import solve_file, table
    from .milp import default_solver

    if args.time_limit <= 0:
        raise InputError("--time-limit", f"{args.time_limit:g}", "seconds above 0")
    solver = args.solver or default_solver()
    results = list(solve_file(args.instance, solver=solver, time_limit=args.time_limit, seed=args.seed))
    print(json.dumps(results, indent=1) if args.json else table(results))
    return 0


def _search_command(args: argparse.Namespace) -> int:
    """0 with a plan, 1 where no fleet of the inventory meets the SLO."""
    from ..configs.slo import load_slo
    from ..sim.report.write import json_text, prepare_folder
    from .inventory import Inventory, load_inventory
    from .search.planning import plan_fleet
    from .search.summary import summary

    options = _options(args)
    inventory, slo = load_inventory(args.inventory), load_slo(args.slo)
    trace = change_trace(read_trace(args.trace, args, args.seed), args)
    if args.out:
        prepare_folder(args.out)
    try:
        planned = plan_fleet(trace, slo, inventory, options, _progress())
    except InputError as error:
        keys = {
            "arrival": args.trace,
            **dict.fromkeys(("objectives", "goodput", "classes"), args.slo),
            **{f.name: args.inventory for f in dataclasses.fields(Inventory)},
        }
        place = keys.get(error.where.split(".")[0])
        raise error.at(f"{place}:") if place else error from None
    if args.out:
        _write(planned, args.out)
    print(json_text(planned.report) if args.json else summary(planned.report))
    return 0 if planned.values else 1


def _options(args: argparse.Namespace) -> Options:
    from .milp import default_solver
    from .search.planning import Options
    from .search.stress import parse_range

    for flag, least in (("replays", 0), ("diverse", 1)):
        if getattr(args, flag) < least:
            raise InputError(f"--{flag}", str(getattr(args, flag)), f"at least {least}")
    if args.gap < 0:
        raise InputError("--gap", f"{args.gap:g}", "a share, not negative")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "servecast"
    return Options(
        solver=args.solver or default_solver(), goal="energy" if args.objective == "energy" else "cost",
        goodput=args.objective == "goodput", seed=args.seed, replays=args.replays, gap=args.gap, diverse=args.diverse,
        exhaustive=args.exhaustive, pareto=args.pareto, compare=not args.no_compare,
        stress=parse_range(args.stress) if args.stress else (), cache=None if args.no_cache else args.cache or home,
    )  # fmt: skip


def _write(planned: Planned, folder: Path) -> None:
    from ..sim.report.write import write_json
    from .search.picture import draw
    from .search.planfile import write_plan

    lasting = {key: value for key, value in planned.report.items() if key != "effort"}  # of this run, not of the plan
    write_json(lasting, folder / "plan.json")
    draw(planned, folder / "pareto.png")
    if planned.values:
        write_plan(planned.values, folder / "plan.yaml", planned.report["explanation"])


def _progress() -> Any:
    """A line on standard error for every fleet that was tried, where somebody can see it."""
    if not sys.stderr.isatty():
        return lambda line: None
    return lambda line: print(line, file=sys.stderr, flush=True)
