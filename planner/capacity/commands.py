"""The sub-command `servecast capacity`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from ...traces.commands import add_changing, add_reading, change_trace, read_trace
from ..sweep.status_line import StatusLine

if TYPE_CHECKING:  # a handler imports what it uses: the command line must start fast
    from ...configs.plan import Plan
    from ...configs.slo import SLO
    from ...traces.table import RequestTable
    from .capacity import CapacityResult, Probe


def add_arguments(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the sub-command; it sets `handler`, a function of the parsed arguments to the exit code."""
    capacity = subparsers.add_parser(
        "capacity",
        help="the highest load at which a plan meets an SLO",
        description="Search the highest load at which a plan meets every objective of an SLO and keeps up with "
        "arrivals: the trace is sent faster or slower, with the same requests in the same order.",
    )
    capacity.add_argument(
        "--trace", metavar="T", type=Path, required=True, help="a trace, or a generator's parameter file"
    )
    capacity.add_argument("--plan", metavar="P", required=True, help="a plan file, or the name of a bundled plan")
    capacity.add_argument("--slo", metavar="S", required=True, help="an SLO file, or the name of a bundled one")
    capacity.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="write capacity.json here, and the knee curve as curve.csv and curve.png",
    )
    capacity.add_argument("--seed", metavar="N", type=int, default=0, help="of every random stream (default 0)")
    capacity.add_argument(
        "--seeds", metavar="K", type=int, default=1, help="search for K seeds from --seed on, and give an interval"
    )
    capacity.add_argument(
        "--precision", metavar="X", type=float, default=0.01, help="of the result, as a share of it (default 0.01)"
    )
    capacity.add_argument("--json", action="store_true", help="print the result as JSON")
    add_reading(capacity)
    add_changing(capacity)
    capacity.set_defaults(handler=capacity_command)


def capacity_command(args: argparse.Namespace) -> int:
    """Search, draw the curve, write, print."""
    from ...configs.plan import load_plan
    from ...configs.slo import load_slo
    from ...sim.report.write import json_text, prepare_folder

    if args.seeds < 1:
        raise InputError("--seeds", str(args.seeds), "at least 1")
    if not 1e-4 <= args.precision <= 1:
        raise InputError("--precision", f"{args.precision:g}", "a share from 0.0001 to 1")
    plan, slo = load_plan(args.plan), load_slo(args.slo)
    tables = _tables(args)
    _check(args, plan, slo, tables[args.seed])
    if args.out:
        prepare_folder(args.out)
    results = _search(args, plan, slo, tables)
    summary = _summary(args, results)
    if args.out:
        _write(args, plan, slo, tables, summary)
    print(json_text(summary) if args.json else _told(args, summary))
    return 0


def _tables(args: argparse.Namespace) -> dict[int, RequestTable]:
    """The trace of each seed: of its own for a generator, one and the same for a recording."""
    from ...traces.load import is_spec

    seeds = range(args.seed, args.seed + args.seeds)
    if is_spec(args.trace):
        return {seed: change_trace(read_trace(args.trace, args, seed), args) for seed in seeds}
    return dict.fromkeys(seeds, change_trace(read_trace(args.trace, args, args.seed), args))


def _check(args: argparse.Namespace, plan: Plan, slo: SLO, table: RequestTable) -> None:
    """Refuse before the first run what any run would trip over, in the name of the file that it stands in."""
    from ...configs.catalog import find
    from ...sim.deploy import deploy
    from .capacity import check_plan, check_slo

    try:
        check_plan(plan)
        deploy(plan)
    except InputError as error:
        raise error.at(f"{find('plans', args.plan)}:") from None
    try:
        check_slo(slo, table)
    except InputError as error:
        raise error.at(f"{find('slos', args.slo)}:") from None


def _search(
    args: argparse.Namespace, plan: Plan, slo: SLO, tables: dict[int, RequestTable]
) -> dict[int, CapacityResult]:
    """The result of each seed; each search starts where the one before ended."""
    from .capacity import capacity

    line, start, runs = StatusLine(), 1.0, 0
    results = {}

    def progress(probe: Probe) -> None:
        nonlocal runs
        runs += 1
        verdict = "met" if probe.met else f"missed: {probe.missed[0]}"
        line.show(f"run {runs}, seed {seed}: {probe.request_rate:.4g} requests/s, {verdict}")

    try:
        for seed, table in tables.items():
            result = capacity(table, plan, slo, seed=seed, start=start, precision=args.precision, progress=progress)
            results[seed] = result
            start = _found(args, result).rate_scale
    finally:
        line.close()
    return results


def _found(args: argparse.Namespace, result: CapacityResult) -> Probe:
    """The run at the highest load, or the reason why there is none."""
    if result.verdict == "none" and result.worst:
        rate, missed = result.worst.request_rate, ", ".join(_valued(result.worst))
        found = f"no load meets it: {rate:.3g} requests/s, at which requests hardly ever meet, miss {missed}"
        raise InputError(args.slo, found, "limits that one request alone keeps, or a faster plan")
    if result.verdict == "every" or not result.best:
        found = "every load meets the SLO, even all requests within a millisecond"
        raise InputError(str(args.trace), found, "a longer trace, or a stricter SLO")
    return result.best


def _valued(probe: Probe) -> list[str]:
    values = {o["objective"]: o["value"] for o in probe.report["slo"]["objectives"]}
    return [f"`{text}` ({values[text]:.4g})" if values.get(text) is not None else f"`{text}`" for text in probe.missed]


def _summary(args: argparse.Namespace, results: dict[int, CapacityResult]) -> dict[str, Any]:
    """What `capacity.json` holds."""
    from ...sim.report.confidence import intervals

    seeds = []
    for seed, result in results.items():
        best, worst = result.best, result.worst
        assert best and worst
        seeds.append(
            {
                "seed": seed, "rate_scale": best.rate_scale, "request_rate": best.request_rate,
                "missed_at": worst.rate_scale, "missed": list(worst.missed), "runs": len(result.probes),
                "stopped_early": sum(probe.stopped for probe in result.probes), "report": best.report,
            }
        )  # fmt: skip
    figures = [{key: entry[key] for key in ("rate_scale", "request_rate")} for entry in seeds]
    alone = {key: {"mean": value, "half_width": 0.0} for key, value in figures[0].items()}
    found = intervals(figures) if len(seeds) > 1 else alone
    level = 0.95 if len(seeds) > 1 else None
    return {**found, "confidence_level": level, "precision": args.precision, "seeds": seeds}


def _write(
    args: argparse.Namespace, plan: Plan, slo: SLO, tables: dict[int, RequestTable], summary: dict[str, Any]
) -> None:
    from ...sim.report.write import write_json
    from ..sweep.table import write_table
    from .knee import SHARES, knee_curve, write_knee_plot

    write_json(summary, args.out / "capacity.json")
    line = StatusLine()
    runs = len(SHARES) * len(tables)
    try:
        scales = [share * summary["rate_scale"]["mean"] for share in SHARES]
        curve = knee_curve(tables, plan, slo, scales, lambda ended: line.bar(ended, 0, runs, "runs of the knee curve"))
    finally:
        line.close()
    write_table(curve, args.out / "curve.csv")
    found = summary["request_rate"]
    write_knee_plot(curve, (found["mean"], found["half_width"]), args.out / "curve.png")


def _told(args: argparse.Namespace, summary: dict[str, Any]) -> str:
    rate, scale, first = summary["request_rate"], summary["rate_scale"], summary["seeds"][0]
    lines = [f"{rate['mean']:.4g} requests/s ({scale['mean']:.4g} x the trace) meet the SLO"]
    if len(summary["seeds"]) > 1:
        low, high = rate["mean"] - rate["half_width"], rate["mean"] + rate["half_width"]
        lines.append(f"95 % interval over {len(summary['seeds'])} seeds: {low:.4g} to {high:.4g} requests/s")
        if not rate["half_width"]:
            lines.append("nothing here is random: a recorded trace on deterministic policies repeats exactly")
    report = first["report"]
    latencies = ", ".join(f"p99 {name.upper()} {_number(report[f'p99_{name}_ms'])} ms" for name in ("ttft", "tpot"))
    lines.append(f"there, with seed {first['seed']}: {latencies}, {report['slo']['goodput_of_offered']:.2%} good")
    lines.append(f"missed from {first['missed_at']:.4g} x on: {', '.join(first['missed'])}")
    runs, stopped = (sum(entry[key] for entry in summary["seeds"]) for key in ("runs", "stopped_early"))
    lines.append(f"{runs} runs, {stopped} of them stopped early")
    if args.out:
        lines.append(f"knee curve in {args.out}/curve.csv and {args.out}/curve.png")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}"
