"""The sub-commands `servecast validate` and `servecast calibrate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a handler imports what it uses: the command line must start fast
    from .recorded.run import RecordedRun

RUN = """a recorded run: a folder with run.json and real_requests.csv, the JSON of `vllm bench serve --save-detailed`,
or our own requests.csv.gz"""


def add_arguments(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the sub-commands; each sets `handler`, a function of the parsed arguments to the exit code."""
    validate = subparsers.add_parser(
        "validate",
        help="simulate a recorded run and print the errors, simulated / recorded - 1",
        description="Simulate a recorded run of a real engine and say how far off the simulation is.",
    )
    validate.add_argument("run", metavar="RUN", type=Path, help=RUN)
    validate.add_argument("--plan", metavar="P", help="its settings, where the record does not hold them")
    validate.add_argument(
        "--out", metavar="DIR", type=Path, help="write validate.json, errors by request and pictures here"
    )
    validate.add_argument(
        "--max-error",
        metavar="[KEY=]LIMIT",
        action="append",
        default=[],
        help="exit with 1 where an error is greater: 5%%, tpot=3%%, tpot.mean=2%%, e2e_from_arrival.mean_abs=2%%",
    )
    validate.add_argument(
        "--noise",
        metavar="X",
        type=float,
        help="also measure how far step times that are off by up to X (0.005) move single requests",
    )
    validate.add_argument("--seeds", metavar="K", type=int, default=4, help="runs with noise (default 4)")
    validate.add_argument("--json", action="store_true", help="print validate.json instead of a table")
    validate.set_defaults(handler=validate_command)

    calibrate = subparsers.add_parser(
        "calibrate",
        help="fit an engine's few host constants to a recorded run; errors on a part held back",
        description="Fit the host constants of an engine preset to a recorded run, and test them on a part held back.",
    )
    calibrate.add_argument("run", metavar="RUN", type=Path, help=RUN)
    calibrate.add_argument("--plan", metavar="P", help="its settings, where the record does not hold them")
    calibrate.add_argument("--out", metavar="DIR", type=Path, help="write calibrate.json and engine.yaml here")
    calibrate.add_argument("--json", action="store_true", help="print calibrate.json instead of a table")
    calibrate.set_defaults(handler=calibrate_command)


def _load(args: argparse.Namespace) -> RecordedRun:
    from ..configs.plan import load_plan
    from .recorded.load import load_run

    return load_run(args.run, load_plan(args.plan) if args.plan else None)


def validate_command(args: argparse.Namespace) -> int:
    """Simulate, compare, write, judge."""
    from ..sim.report.write import json_text, prepare_folder, write_json
    from .noise import spread
    from .validate import compare, missed, parse_limits, validation, write_requests

    limits = parse_limits(args.max_error)
    if args.out:
        prepare_folder(args.out)
    recorded = _load(args)
    comparison = compare(recorded)
    result = validation(comparison)
    if args.noise is not None:
        result["noise_spread"] = spread(recorded, comparison.simulated, args.noise, args.seeds)
    failures = missed(result, limits)
    result["missed"] = failures
    if args.out:
        from .validation_plots import write_plots

        write_json(result, args.out / "validate.json")
        write_requests(comparison, args.out / "errors.csv.gz")
        write_plots(comparison, args.out)
    print(json_text(result) if args.json else _table(result))
    return 1 if failures else 0


def _table(result: dict[str, Any]) -> str:
    """The errors in some twenty lines."""
    kv = result["kv_use"]
    blocks = f"{kv['blocks']:,} KV blocks" + (" as recorded" if kv["recorded_blocks"] else " by the memory arithmetic")
    if kv["recorded_blocks"]:
        blocks += f" ({kv['predicted_blocks']:,} by the memory arithmetic)"
    lines = [
        f"{result['run']}: {result['compared']:,} of {result['requests']:,} requests compared, {result['engine']}, "
        f"step times {result['step_times']}",
        f"{blocks}, {kv['peak']:.0%} used at the peak, {result['preemptions']:,} preemptions",
        "",
        f"{'simulated / recorded - 1':<26}"
        + "".join(f"{stat:>9}" for stat in ("mean", "p50", "p90", "p95", "p99", "|mean|", "|p90|")),
    ]
    for metric, errors in result["errors"].items():
        each = result["per_request"].get(metric, {})
        cells = [*errors.values(), *each.values()]
        lines.append(f"{metric.replace('_', ' '):<26}" + "".join(f"{value:>+9.2%}" for value in cells))
    lines += ["", f"load: {result['load']['verdict']} ({result['load']['reason']})"]
    if "noise_spread" in result:
        spread = result["noise_spread"]
        moved = spread.get("e2e_from_arrival", {}).get("mean_abs", 0.0)
        lines.append(f"noise of +-{spread['noise']:.1%} on step times moves a request's E2E by {moved:.2%} on average")
    share = result["extrapolated_share"]
    lines.append(f"{share:.1%} of the time outside what was measured; {result['cpu_seconds']:.2f} s to simulate")
    lines += [f"note: {note}" for note in result["notes"]]
    lines += [f"MISSED: {line}" for line in result["missed"]]
    return "\n".join(lines)


def calibrate_command(args: argparse.Namespace) -> int:
    """Fit, report, write."""
    import yaml

    from ..sim.report.write import json_text, prepare_folder, write_json
    from ..traces.files import replacing_text
    from .calibrate import calibrate

    if args.out:
        prepare_folder(args.out)
    result = calibrate(_load(args))
    if args.out:
        write_json(result, args.out / "calibrate.json")
        with replacing_text(args.out / "engine.yaml") as text:
            yaml.safe_dump(result["engine_preset"], text, sort_keys=False, width=110)
    print(json_text(result) if args.json else _calibration(result))
    return 0


def _calibration(result: dict[str, Any]) -> str:
    lines = [f"{result['run']}: {result['engine']}, {result['evaluations']} simulations"]
    for name, value in result["constants"].items():
        lines.append(f"  {name:<28}{value * 1e6:>10.2f} us, was {result['preset'][name] * 1e6:.2f} us")
    for part in ("fitted", "held_back"):
        lines += ["", f"{part.replace('_', ' ')}: {result[part]['requests']:,} requests"]
        for name, before in result[part]["before"].items():
            lines.append(f"  {name.replace('_', ' '):<28}{before:>9.2%} -> {result[part]['after'][name]:.2%}")
    return "\n".join(lines)
