"""The sub-commands `servecast simulate` and `servecast check`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, unknown_name
from ..traces.commands import add_changing, add_reading

LONGEST_TEXT = 2**31 - 1  # tokens: results have 32 bits for them

if TYPE_CHECKING:  # a handler imports what it uses: the command line must start fast
    from ..configs.plan import Plan
    from ..configs.slo import SLO
    from .checkpoint import Checkpoint
    from .deployment import Deployment
    from .run import Run
    from .workload import Workload


def add_arguments(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the sub-commands; each sets `handler`, a function of the parsed arguments to the exit code."""
    simulate = subparsers.add_parser(
        "simulate",
        help="replay a trace on a plan: latency, goodput, cost, and why",
        description="Replay a trace on a deployment plan and say what users would feel, what it costs and why.",
    )
    simulate.add_argument(
        "--trace",
        metavar="T",
        type=Path,
        required=True,
        help="a trace of any known format, or a generator's parameter file",
    )
    simulate.add_argument("--plan", metavar="P", required=True, help="a plan file, or the name of a bundled plan")
    simulate.add_argument("--slo", metavar="S", help="an SLO file, or the name of a bundled one")
    simulate.add_argument(
        "--out", metavar="DIR", type=_folder_name, help="write report.json, requests.csv.gz and timeseries.csv.gz here"
    )
    simulate.add_argument("--plots", action="store_true", help="with --out: latency CDFs and time series as PNG")
    simulate.add_argument("--seed", metavar="N", type=int, default=0, help="of every random stream (default 0)")
    simulate.add_argument(
        "--seeds",
        metavar="K",
        type=int,
        default=1,
        help="repeat with K seeds from --seed on, and give confidence intervals",
    )
    simulate.add_argument(
        "--warmup",
        metavar="S",
        type=float,
        default=0.0,
        help="leave requests of the first S seconds out of the statistics",
    )
    simulate.add_argument("--horizon", metavar="S", type=float, help="stop after S simulated seconds")
    simulate.add_argument(
        "--step-by-step",
        action="store_true",
        help="take every iteration by itself and assert each promise of the policies",
    )
    simulate.add_argument(
        "--checkpoint",
        metavar="S",
        type=float,
        help="with --out: save the run's state every S seconds; the same command goes on from it, to the same bytes",
    )
    simulate.add_argument("--json", action="store_true", help="print the report as JSON instead of a table")
    add_reading(simulate)
    add_changing(simulate)
    simulate.set_defaults(handler=simulate_command)

    check = subparsers.add_parser("check", help="print a plan's memory arithmetic; refuse one that cannot start")
    check.add_argument("plan", metavar="PLAN", help="a plan file, or the name of a bundled plan")
    check.add_argument("--json", action="store_true", help="machine-readable output")
    check.set_defaults(handler=check_command)


def _folder_name(text: str) -> Path:
    if not text:  # a shell variable that was not set
        raise argparse.ArgumentTypeError("''; expected a folder")
    return Path(text)


def simulate_command(args: argparse.Namespace) -> int:
    """Run, report, write."""
    from ..configs.plan import load_plan
    from ..configs.slo import load_slo
    from .report.terminal import table
    from .report.write import json_text, write_results
    from .workload import read_workload

    _check_flags(args)
    plan = load_plan(args.plan)
    slo = None if args.slo is None else load_slo(args.slo)
    workload = read_workload(args, args.seed)
    _check_together(args, plan, slo, workload)
    _deploy(args.plan, plan)
    with _folder(args.out):
        first, report = _repeat(args, plan, slo, workload)
        if args.out:
            write_results(first, report, args.out)
        if args.plots:
            from .report.plots import write_plots

            write_plots(first, args.out)
        if args.checkpoint is not None and not report["simulation"]["interrupted"]:
            _checkpoint(args, plan, workload, args.seed).clear()
    print(json_text(report) if args.json else table(report))
    if args.out and not args.json:
        print(f"results in {args.out}")
    simulation = report["simulation"]
    if simulation["interrupted"]:
        where = f"; what is finished is in {args.out}" if args.out else ""
        print(f"interrupted after {report['completed']:,} requests{where}", file=sys.stderr)
        return 2
    return 0 if all(simulation["invariants"].values()) else 1


def _check_flags(args: argparse.Namespace) -> None:
    from ..configs.plan import LONGEST

    if args.seeds < 1:
        raise InputError("--seeds", str(args.seeds), "at least 1")
    if args.warmup < 0:
        raise InputError("--warmup", f"{args.warmup:g}", "seconds, not negative")
    if args.horizon is not None and not 1e-9 <= args.horizon <= LONGEST:
        raise InputError("--horizon", f"{args.horizon:g}", f"1e-09 to {LONGEST:g} seconds")
    if args.checkpoint is not None:
        if args.checkpoint <= 0:
            raise InputError("--checkpoint", f"{args.checkpoint:g}", "seconds, above 0")
        if not args.out:
            raise InputError("--checkpoint", "given without --out", "a folder for the state: --out DIR")
        for flag, given in (("--seeds", args.seeds > 1), ("--horizon", args.horizon is not None)):
            if given:
                raise InputError(flag, "given with --checkpoint", "one of the two")
    if args.plots and not args.out:
        raise InputError("--plots", "given without --out", "a folder for the pictures: --out DIR")


def _check_together(args: argparse.Namespace, plan: Plan, slo: SLO | None, workload: Workload) -> None:
    """Refuse what would be ignored silently, or leave nothing to report, before a long run rather than after it."""
    from ..configs.plan import LONGEST

    trace = workload.requests
    if plan.clients.closed_loop:
        for flag, value in (("--rate-scale", args.rate_scale), ("--jitter", args.jitter)):
            if value is not None:
                found = "given with a plan whose clients.closed_loop sends a request when another ends"
                raise InputError(flag, found, "one of the two")
    elif not workload.users:
        first, last = float(trace.arrival[0]), float(trace.arrival[-1])
        if args.warmup > last - first:
            raise InputError(
                "--warmup", f"{args.warmup:g}", f"at most {last - first:g} s, the span of the trace's arrivals"
            )
        if args.horizon is not None and args.horizon <= first + args.warmup:
            expected = f"more than {first + args.warmup:g} s, when the first request that counts arrives"
            raise InputError("--horizon", f"{args.horizon:g}", expected)
    for name in ("arrival", "cancel_after"):
        seconds = getattr(trace, name)
        if seconds is not None and ((seconds > LONGEST) & (seconds < inf)).any():
            expected = f"seconds from the trace's beginning, at most {LONGEST:g}"
            raise InputError(f"{args.trace}: {name}", f"{seconds[seconds < inf].max():g}", expected)
    for name in ("prompt_tokens", "output_tokens"):
        most = int(getattr(trace, name).max())
        if most > LONGEST_TEXT:
            raise InputError(f"{args.trace}: {name}", str(most), f"at most {LONGEST_TEXT}")
    classes = trace.request_class.names if trace.request_class else ()
    for name in slo.classes if slo else ():
        if name not in classes:
            raise unknown_name(f"{args.slo}: classes.{name}", "request class of this trace", name, classes)


def _deploy(name: str, plan: Plan) -> list[Deployment]:
    """The engines of `plan`, which the command line calls `name`."""
    from .deploy import deploy

    with _in_plan(name):
        return deploy(plan)


@contextmanager
def _in_plan(name: str) -> Iterator[None]:
    """Errors that name a key of a plan also name its file."""
    from ..configs.catalog import find

    try:
        yield
    except InputError as error:
        raise error.at(f"{find('plans', name)}:") from None


@contextmanager
def _folder(path: Path | None) -> Iterator[None]:
    """Make sure early that results can be written to `path`, and leave no new folder behind if there are none."""
    from .report.write import prepare_folder

    made = path is not None and not path.exists()
    if path:
        prepare_folder(path)
    try:
        yield
    finally:
        if path and made:
            with suppress(OSError):  # it holds results
                path.rmdir()


def _repeat(args: argparse.Namespace, plan: Plan, slo: SLO | None, workload: Workload) -> tuple[Run, dict[str, Any]]:
    """The run with the first seed, and its report with the intervals over all seeds."""
    from .report.confidence import intervals
    from .report.report import build_report
    from .workload import read_workload

    first = _run(args, plan, workload, args.seed)
    try:
        reports = [build_report(first, slo, args.warmup)]
    except InputError:
        if first.interrupted:  # before the first request that counts
            raise KeyboardInterrupt from None
        raise
    interrupted = first.interrupted
    with suppress(KeyboardInterrupt):
        while len(reports) < args.seeds and not interrupted:
            interrupted, seed = True, args.seed + len(reports)
            run = _run(args, plan, read_workload(args, seed) if workload.drawn else workload, seed)
            if not run.interrupted:
                reports.append(build_report(run, slo, args.warmup))
                interrupted = False
    report = reports[0]
    report["simulation"]["interrupted"] = interrupted
    if len(reports) > 1:
        report["confidence"] = {"level": 0.95, "seeds": len(reports), "figures": intervals(reports)}
        for other_report in reports[1:]:
            for name, holds in other_report["simulation"]["invariants"].items():
                report["simulation"]["invariants"][name] &= holds
    return first, report


def _checkpoint(args: argparse.Namespace, plan: Plan, workload: Workload, seed: int) -> Checkpoint:
    """Where this run's state is saved, and what makes it this run's."""
    from .checkpoint import Checkpoint
    from .report.report import package_version

    identity = {
        "version": package_version(), "plan": plan.fingerprint(), "trace": workload.requests.fingerprint(),
        "seed": seed, "users": workload.users, "step_by_step": args.step_by_step,
    }  # fmt: skip
    return Checkpoint(args.out / ".checkpoint", identity, args.checkpoint)


def _run(args: argparse.Namespace, plan: Plan, workload: Workload, seed: int) -> Run:
    from .progress import ticker
    from .run import run

    checkpoint = None if args.checkpoint is None else _checkpoint(args, plan, workload, seed)
    if checkpoint and checkpoint.exists():
        print(f"going on from the checkpoint in {args.out}", file=sys.stderr)
    shown = ticker()
    try:
        with _in_plan(args.plan):  # the trace has been judged already: it is the plan that does not suit it
            return run(
                workload.requests, plan,
                seed=seed, users=workload.users, think_time=workload.think_time,
                step_by_step=args.step_by_step, progress=shown, horizon=inf if args.horizon is None else args.horizon,
                checkpoint=checkpoint,
            )  # fmt: skip
    finally:
        if shown:
            shown.close()


def check_command(args: argparse.Namespace) -> int:
    """The memory arithmetic and limits of every pool."""
    from ..configs.plan import load_plan

    plan = load_plan(args.plan)
    deployments = _deploy(args.plan, plan)
    if args.json:
        pools = [
            {
                "name": d.pool.name, "accelerators": d.pool.accelerators, "kv_blocks": d.blocks,
                "kv_tokens": d.blocks * d.limits.block_size, "usd_per_hour": d.usd_per_hour,
                "limits": d.limits.figures(),
                "memory": d.capacity.lines(), "cost_model": d.cost.describe(),
            }
            for d in deployments
        ]  # fmt: skip
        print(json.dumps({"plan": plan.name, "fingerprint": plan.fingerprint(), "pools": pools}, indent=1))
        return 0
    print(f"{plan.name}: this plan can start")
    for d in deployments:
        p = d.pool
        print(
            f"\n{p.name}: {p.replicas} x {d.model.name} on {d.hardware.name} (TP {p.tensor_parallel_size}, PP "
            f"{p.pipeline_parallel_size}, DP {p.data_parallel_size}; {p.accelerators} accelerators), {d.preset.name}"
        )
        for line in d.capacity.lines():
            print("  " + line)
        if p.num_gpu_blocks_override:
            print(f"  given instead: {d.blocks} blocks = {d.blocks * d.limits.block_size} tokens")
        longest = d.blocks // d.limits.blocks(d.limits.max_model_len)
        print(f"  room for {longest} requests of max_model_len = {d.limits.max_model_len} tokens at once")
        print(f"  max_num_seqs {d.limits.max_num_seqs}, max_num_batched_tokens {d.limits.max_num_batched_tokens}")
        if d.tenancy:
            print(f"  {d.tenancy.line(p.name)}")
        price = "no price known" if d.usd_per_hour is None else f"${d.usd_per_hour:,.2f} an hour"
        print(f"  {price}; step times {d.cost.label}")
    return 0
