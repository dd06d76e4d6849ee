"""`make bench`: what the simulator costs, in CPU seconds of whole processes.

For each plan and policy: find the load at which the plan saturates (bisection on the overload verdict), replay 100,000
requests with the lengths of the Azure conversation trace at 80 % of it through `servecast simulate --out`, and divide
by the CPU seconds (user + system) of that process, start-up, reading and writing included. Likewise 64 replicas between
which requests migrate. Ratios within one run are worth more than absolute figures: the machine may be shared.

Prints a table in Markdown, for the README, and writes the same as JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import resource
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from servecast.configs.plan import Plan, load_plan
from servecast.sim import core
from servecast.sim.report.overload import overload_verdict
from servecast.sim.report.report import build_report, package_version
from servecast.sim.report.write import prepare_folder, write_json, write_results
from servecast.sim.run import run
from servecast.traces.generate import generate
from servecast.traces.spec import load_spec
from servecast.traces.table import RequestTable
from servecast.traces.transform import scale_rate
from servecast.traces.write import write

HERE = Path(__file__).parent
LENGTHS = HERE / "azure-conv.yaml"
SIXTY_ONE_DAYS = HERE.parent / "traces/samples/burstgpt.yaml"
COMPILED = not str(core.__file__).endswith(".py")
PROBE = 4000  # requests of one step of the bisection
POLICIES = ("vllm-0.19", "vllm-0.6", "sarathi-serve", "orca")
Row = dict[str, Any]


def trace(rate: float, requests: int) -> RequestTable:
    """Poisson arrivals at `rate` requests/s with the Azure lengths; the same requests whatever the rate."""
    spec = dataclasses.replace(load_spec(LENGTHS), requests=requests)
    return scale_rate(generate(spec), rate)


def saturation(plan: Plan) -> float:
    """The highest load, requests/s, that the plan serves without its queue growing; within 2 %."""

    def overloaded(rate: float) -> bool:
        return overload_verdict(run(trace(rate, PROBE * plan.pools[0].replicas), plan))["verdict"] != "ok"

    low, high = 0.25, 0.5
    while not overloaded(high):
        low, high = high, high * 2
    while high / low > 1.02:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if overloaded(middle) else (middle, high)
    return low


@contextmanager
def cpu_seconds() -> Iterator[Callable[[], tuple[float, float]]]:
    """CPU seconds and peak memory (MB) of the child processes of the block."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)

    def spent() -> tuple[float, float]:
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, after.ru_maxrss / 1024

    yield spent


def simulate(*flags: str, interpreted: bool = False) -> tuple[float, float]:
    """CPU seconds and peak memory of one `servecast simulate`. The peak is that of the largest child so far.

    interpreted : without `PYTHONPATH`, where `make bench` has the compiled engine.
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} if interpreted else None
    command = [sys.executable, "-m", "servecast", "simulate", *flags]
    with cpu_seconds() as spent:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        return spent()


def plan_with(name: str, engine: str, folder: Path) -> Path:
    """A bundled plan with another engine, as a file."""
    text = yaml.safe_load((Path(load_plan(name).folder) / f"{name}.yaml").read_text())
    text["engine"] = engine
    path = folder / f"{name}-{engine}.yaml"
    path.write_text(yaml.safe_dump(text))
    return path


def replay(trace_file: Path, plan: str, folder: Path, interpreted: bool = False) -> Row:
    """One row of the table: a trace on a plan."""
    out = folder / "out"
    flags = ("--trace", str(trace_file), "--plan", plan, "--out", str(out))
    seconds, memory = simulate(*flags, interpreted=interpreted)
    report = json.loads((out / "report.json").read_text())
    simulation = report["simulation"]
    steps = simulation["engine_steps"]
    return {
        "requests": report["num_prompts"],
        "requests/s simulated": report["request_throughput"],
        "CPU s": seconds,
        "requests/CPU s": report["num_prompts"] / seconds,
        "iterations": simulation["iterations"],
        "engine steps": steps,
        "mean batch": simulation["mean_decode_batch"],
        "tokens/step": report["total_output_tokens"] / steps,
        "peak MB": memory,
    }


def start_up() -> Row:
    """A run of one request; reading the bundled sample (9,970 rows) is part of it."""
    sample = str(HERE.parent / "traces/samples/chat-sample.jsonl.gz")
    seconds, memory = simulate("--trace", sample, "--plan", "bench-1", "--limit", "1")
    return {"CPU s": seconds, "peak MB": memory}


def writing_against_simulating(rate: float, requests: int, folder: Path) -> Row:
    """What the result files cost beside the simulation itself."""
    result = run(trace(rate, requests), load_plan("bench-1"))
    before = sum(os.times()[:2])
    write_results(result, build_report(result), folder)
    return {"requests": requests, "CPU s": sum(os.times()[:2]) - before, "CPU s to simulate": result.cpu_seconds}


def step_by_step(batches: Sequence[int]) -> Iterator[Row]:
    """Seconds of an iteration taken by itself; the least of five tries, in turns: a busy moment hits all alike."""
    plan = load_plan("bench-1")
    pool = dataclasses.replace(plan.pools[0], max_num_seqs=1024, num_gpu_blocks_override=4_000_000)
    plan = dataclasses.replace(plan, pools=(pool,))

    def cost(batch: int) -> float:
        taken = []
        for tokens in (2_000, 22_000):  # the difference leaves out admissions and ends
            table = RequestTable(np.zeros(batch), np.full(batch, 5), np.full(batch, tokens))
            result = run(table, plan, step_by_step=True)
            iterations = sum(int(t.columns()["iterations"].sum()) for t in result.recorder.leaps)
            taken.append((iterations, result.cpu_seconds))
        (few, little), (many, much) = taken
        return (much - little) / (many - few)

    tries = [[cost(batch) for batch in batches] for _ in range(5)]
    for batch, seconds in zip(batches, (min(column) for column in zip(*tries, strict=True)), strict=True):
        yield {"mean batch": batch, "iterations/CPU s": 1 / seconds, "us an iteration": seconds * 1e6}


def measure(requests: int, long: bool, folder: Path) -> Iterator[tuple[str, Row]]:
    """All rows of the table, each when it is there."""
    yield "start-up", start_up()
    trace_file = folder / "trace.csv"
    for plan in ("bench-1", "bench-8"):
        for engine in POLICIES if plan == "bench-1" else POLICIES[:1]:
            path = plan_with(plan, engine, folder)
            limit = saturation(load_plan(str(path)))
            write(trace(0.8 * limit, requests), trace_file, "azure")
            case = f"{plan}, {engine}, 80 % of {limit:.3g} requests/s"
            yield case, replay(trace_file, str(path), folder)
            if COMPILED and engine == POLICIES[0]:
                yield f"{case}, interpreted", replay(trace_file, str(path), folder, interpreted=True)
            if plan == "bench-1" and engine == POLICIES[0]:
                write(trace(0.5, requests), trace_file, "azure")
                yield "bench-1, sparse", replay(trace_file, str(path), folder)
                rate = 0.8 * limit
                yield "bench-1, result files only", writing_against_simulating(rate, requests, folder / "out")
    yield from migrating(requests, folder)
    for row in step_by_step((8, 64, 256, 1024)):
        yield "bench-1, every iteration by itself", row
    if long:
        yield "default, 61 days of BurstGPT-like load", replay(SIXTY_ONE_DAYS, "default", folder)


def migrating(requests: int, folder: Path) -> Iterator[tuple[str, Row]]:
    """Llumnix's study on 64 replicas that migrate, at half of what they carry and near all of it."""
    study = runpy.run_path(str(HERE / "studies" / "llumnix.py"))
    plan, trace_file = folder / "llumnix.yaml", folder / "trace.csv"
    plan.write_text(yaml.safe_dump(study["keys_of"]({"name": "llumnix", "view_age": 0.0}, "llumnix", replicas=64)))
    for mix in ("S-S", "M-M", "L-L"):
        limit = 4 * study["carried"](mix, 10_000, 0)  # of 16
        for load in (0.5, 0.95):
            write(study["workload"](mix, load * limit, requests, 0), trace_file, "azure")
            yield (
                f"64 replicas, migration, {mix}, {load:.0%} of {limit:.3g} requests/s",
                replay(trace_file, str(plan), folder),
            )


def machine() -> dict[str, str]:
    """Where and with what this was measured."""
    cpu = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux
        pass
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{cpu}, {os.cpu_count()} cores",
        "engine": "compiled (ADR 11)" if COMPILED else "interpreted",
        "versions": f"servecast {package_version()}, Python {platform.python_version()}, numpy {np.__version__}",
        "command": " ".join(["python", *sys.argv]),
    }


COLUMNS = ("requests", "CPU s", "requests/CPU s", "iterations", "engine steps", "mean batch", "tokens/step", "peak MB")


def cells(values: list[object]) -> str:
    """A row of a Markdown table."""
    texts = ["" if v is None else f"{v:,.3g}" if isinstance(v, float) and v < 100 else f"{v:,.0f}" for v in values]
    return "| " + " | ".join(texts) + " |"


def main() -> None:
    """The whole benchmark, or a quick one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--no-long", action="store_true", help="leave out the 61-day trace")
    parser.add_argument("--out", type=Path, default=Path("out/bench.json"))
    args = parser.parse_args()
    prepare_folder(args.out.parent)
    about = machine()
    print("\n".join(f"{key}: {value}" for key, value in about.items()))
    print(f"\n| case | {' | '.join(COLUMNS)} | more |\n|---|{'---:|' * len(COLUMNS)}---|", flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for case, row in measure(args.requests, not args.no_long, Path(name)):
            rows.append({"case": case, **row})
            others = ", ".join(f"{key} {value:,.3g}" for key, value in row.items() if key not in COLUMNS)
            print(f"| {case} {cells([row.get(key) for key in COLUMNS])} {others} |", flush=True)
    write_json({**about, "rows": rows}, args.out)


if __name__ == "__main__":
    main()
