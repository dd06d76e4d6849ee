"""The sub-commands `servecast simulate` and `servecast check`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..traces.commands import add_changing, add_reading, change_trace, read_trace

if TYPE_CHECKING:  # a handler imports what it uses: the command line must start fast
    from .run import Run


def add_arguments(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the sub-commands; each sets `handler`, a function of the parsed arguments to the exit code."""
    simulate = subparsers.add_parser(
        "simulate",
        help="replay a trace on a plan: latency, goodput, cost, and why",
        description="Replay a trace on a deployment plan and say what users would feel, what it costs and why.",
    )
    simulate.add_argument("--trace", metavar="T", type=Path, required=True, help="a trace of any known format, or a generator's parameter file")
    simulate.add_argument("--plan", metavar="P", required=True, help="a plan file, or the name of a bundled plan")
    simulate.add_argument("--slo", metavar="S", help="an SLO file, or the name of a bundled one")
    simulate.add_argument("--out", metavar="DIR", type=Path, help="write report.json, requests.csv.gz and timeseries.csv.gz here")
    simulate.add_argument("--plots", action="store_true", help="with --out: latency CDFs and time series as PNG")
    simulate.add_argument("--seed", metavar="N", type=int, default=0, help="of every random stream (default 0)")
    simulate.add_argument("--seeds", metavar="K", type=int, default=1, help="repeat with K seeds from --seed on, and give confidence intervals")
    simulate.add_argument("--warmup", metavar="S", type=float, default=0.0, help="leave requests of the first S seconds out of the statistics")
    simulate.add_argument("--horizon", metavar="S", type=float, help="stop after S simulated seconds")
    simulate.add_argument("--step-by-step", action="store_true", help="take every iteration by itself and assert each promise of the policies")
    simulate.add_argument("--json", action="store_true", help="print the report as JSON instead of a table")
    add_reading(simulate)
    add_changing(simulate)
    simulate.set_defaults(handler=simulate_command)

    check = subparsers.add_parser("check", help="print a plan's memory arithmetic; refuse one that cannot start")
    check.add_argument("plan", metavar="PLAN", help="a plan file, or the name of a bundled plan")
    check.add_argument("--json", action="store_true", help="machine-readable output")
    check.set_defaults(handler=check_command)


def simulate_command(args: argparse.Namespace) -> int:
    """Run, report, write."""
    from ..configs.plan import load_plan
    from ..configs.slo import load_slo
    from .confidence import intervals
    from .report import build_report
    from .terminal import table
    from .write import prepare_folder, write_results

    _check_flags(args)
    plan = load_plan(args.plan)
    slo = load_slo(args.slo) if args.slo else None
    if args.out:
        prepare_folder(args.out)
    first = _run(args, plan, args.seed)
    report = build_report(first, slo, args.warmup)
    if args.seeds > 1 and not first.interrupted:
        others = [_run(args, plan, args.seed + i) for i in range(1, args.seeds)]
        reports = [report, *(build_report(run, slo, args.warmup) for run in others)]
        report["confidence"] = {"level": 0.95, "seeds": args.seeds, "figures": intervals(reports)}
    if args.out:
        write_results(first, report, args.out)
        if args.plots:
            from .plots import write_plots

            write_plots(first, args.out)
    print(json.dumps(report, indent=1, default=str) if args.json else table(report))
    if first.interrupted:
        where = f"; what is finished is in {args.out}" if args.out else ""
        print(f"interrupted after {report['completed']:,} requests{where}", file=sys.stderr)
        return 2
    return 0 if all(first.invariants.values()) else 1


def _check_flags(args: argparse.Namespace) -> None:
    if args.seeds < 1:
        raise InputError("--seeds", str(args.seeds), "at least 1")
    if args.warmup < 0:
        raise InputError("--warmup", f"{args.warmup:g}", "seconds, not negative")
    if args.horizon is not None and args.horizon <= 0:
        raise InputError("--horizon", f"{args.horizon:g}", "seconds above 0")
    if args.plots and not args.out:
        raise InputError("--plots", "given without --out", "a folder for the pictures: --out DIR")


def _run(args: argparse.Namespace, plan: Any, seed: int) -> Run:
    from .progress import ticker
    from .run import run

    trace = change_trace(read_trace(args.trace, args, seed), args)
    shown = ticker()
    try:
        return run(
            trace, plan, seed=seed, step_by_step=args.step_by_step, progress=shown,
            horizon=float("inf") if args.horizon is None else args.horizon,
        )  # fmt: skip
    finally:
        if shown:
            shown.close()


def check_command(args: argparse.Namespace) -> int:
    """The memory arithmetic and limits of every pool."""
    from ..configs.plan import load_plan
    from .deploy import deploy

    plan = load_plan(args.plan)
    deployments = deploy(plan)
    if args.json:
        pools = [
            {
                "name": d.pool.name, "accelerators": d.pool.accelerators, "kv_blocks": d.blocks,
                "kv_tokens": d.blocks * d.limits.block_size, "usd_per_hour": d.usd_per_hour,
                "limits": {name: getattr(d.limits, name) for name in d.limits.__slots__},
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
        longest = d.blocks * d.limits.block_size // d.limits.max_model_len
        print(f"  room for {longest} requests of max_model_len = {d.limits.max_model_len} tokens at once")
        print(f"  max_num_seqs {d.limits.max_num_seqs}, max_num_batched_tokens {d.limits.max_num_batched_tokens}")
        price = "no price known" if d.usd_per_hour is None else f"${d.usd_per_hour:,.2f} an hour"
        print(f"  {price}; step times {d.cost.label}")
    return 0
