"""The sub-commands `servecast profile` and `servecast closed-loop`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:  # a handler imports what it uses: the command line must start fast, and torch is an extra
    from .closed_loop import Verdict
    from .profile import Task

TINY = Path(__file__).parents[1] / "configs" / "profiling" / "tiny.json"  # small enough for a CPU


def add_arguments(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the sub-commands; each sets `handler`, a function of the parsed arguments to the exit code."""
    profile = subparsers.add_parser(
        "profile",
        help="measure a model's kernels on this machine: a cost table for `simulate`",
        description="Measure the operators of a model on this machine. DIR gets a table set, an engine preset with the "
        "host's constants, and a plan that names both; a killed run goes on where it was.",
    )
    _common(profile)
    profile.add_argument("--tp", metavar="N", type=int, default=1, help="shapes of one of N tensor-parallel ranks")
    profile.add_argument(
        "--kv-cache-dtype", metavar="T", action="append", default=[], help="auto (default), fp8; may be given twice"
    )
    profile.add_argument("--power", action="store_true", help="also the device's power, where its driver gives it")
    profile.set_defaults(handler=profile_command)

    loop = subparsers.add_parser(
        "closed-loop",
        help="profile, simulate, serve for real, compare",
        description="Profile this machine, simulate a trace with the tables, serve it with the real engine under the "
        "same policies, and compare: at a steady load, and overloaded with preemptions.",
    )
    _common(loop)
    loop.add_argument("--requests", metavar="N", type=int, default=100, help="of each of the two traces (default 100)")
    loop.add_argument("--seed", metavar="N", type=int, default=0, help="of every random stream (default 0)")
    loop.set_defaults(handler=closed_loop_command)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where to run (default cuda)")
    parser.add_argument(
        "--model", metavar="M", help="a model card by name, or a config.json (default on a CPU: a tiny one)"
    )
    parser.add_argument("--budget", metavar="MIN", type=float, default=10.0, help="minutes of measuring (default 10)")
    parser.add_argument("--grid", metavar="YAML", type=Path, help="sizes to measure (default: those of the device)")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="where the results go")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def profile_command(args: argparse.Namespace) -> int:
    """Measure and write."""
    task = _task(args, args.out)
    from .profile import profile

    summary = profile(task, _say)
    if args.json:
        from ..sim.report.write import json_text

        print(json_text(summary))
    else:
        from .summary import profile_summary

        print(profile_summary(summary, task.out))
    return 0


def closed_loop_command(args: argparse.Namespace) -> int:
    """Profile, simulate, serve, compare; 1 where simulated and served differ by more than they may."""
    if args.requests < 10:
        raise InputError("--requests", str(args.requests), "at least 10")
    task = _task(args, args.out)
    from .closed_loop import closed_loop

    verdict: Verdict = closed_loop(task, args.requests, args.seed, _say)
    if args.json:
        from ..sim.report.write import json_text

        print(json_text(verdict.as_dict()))
    else:
        print(verdict.table())
    return 0 if verdict.accepted else 1


def _task(args: argparse.Namespace, out: Path) -> Task:
    """The profile that the flags ask for. Raises InputError for flags that make none, and where torch is missing."""
    if args.budget < 0:
        raise InputError("--budget", f"{args.budget:g}", "minutes, not negative")
    if args.model is None and args.device == "cuda":
        raise InputError("--model", "missing", "a model card, as `--model llama-3.1-8b`")
    try:
        import torch  # noqa: F401
    except ImportError:
        found = f"{args.device}, and torch is not installed"
        raise InputError("--device", found, "what `pip install 'servecast[gpu]'` brings") from None
    from ..real_backend.model import KV_DTYPES
    from .profile import Task

    kinds = tuple(dict.fromkeys(getattr(args, "kv_cache_dtype", []))) or ("auto",)
    for kind in kinds:
        if kind not in ("auto", *KV_DTYPES):
            raise InputError("--kv-cache-dtype", repr(kind), "one of " + ", ".join(("auto", *KV_DTYPES)))
    return Task(
        model=args.model or str(TINY), device=args.device, out=out, tp=getattr(args, "tp", 1), budget=60 * args.budget,
        grid=args.grid, kv_cache_dtypes=kinds, with_power=getattr(args, "power", False),
    )  # fmt: skip


def _say(text: str) -> None:
    print(f"servecast: {text}", file=sys.stderr)
