"""`make bench`: what the simulator costs, in CPU seconds of whole processes.

For each plan and policy: find the load at which the plan saturates (bisection on the overload verdict), replay 100,000
requests with the lengths of the Azure conversation trace at 80 % of it through `servecast simulate --out`, and divide
by the CPU seconds (user + system) of that process, start-up, reading and writing included. Ratios within one run are
worth more than absolute figures: the machine may be shared.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from servecast.configs.plan import Plan, load_plan
from servecast.sim.overload import overload_verdict
from servecast.sim.report import build_report
from servecast.sim.run import run
from servecast.sim.write import write_results
from servecast.traces.generate import generate
from servecast.traces.spec import load_spec
from servecast.traces.table import RequestTable
from servecast.traces.transform import scale_rate
from servecast.traces.write import write

HERE = Path(__file__).parent
PROBE = 4000  # requests of one step of the bisection
POLICIES = ("vllm-0.19", "vllm-0.6", "sarathi-serve", "orca")


def trace(rate: float, requests: int) -> RequestTable:
    """Poisson arrivals at `rate` requests/s with the Azure lengths; the same requests whatever the rate."""
    spec = dataclasses.replace(load_spec(HERE / "azure-conv.yaml"), requests=requests)
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


def simulate(*flags: str) -> tuple[float, float]:
    """CPU seconds and peak memory of one `servecast simulate`. The peak is that of the largest child so far."""
    with cpu_seconds() as spent:
        subprocess.run([sys.executable, "-m", "servecast", "simulate", *flags], check=True, stdout=subprocess.DEVNULL)
        return spent()


def plan_with(name: str, engine: str, folder: Path) -> Path:
    """A bundled plan with another engine, as a file."""
    text = yaml.safe_load((Path(load_plan(name).folder) / f"{name}.yaml").read_text())
    text["engine"] = engine
    path = folder / f"{name}-{engine}.yaml"
    path.write_text(yaml.safe_dump(text))
    return path


def measure(path: Path, rate: float, requests: int, folder: Path) -> dict[str, Any]:
    """One row of the table: a plan at a load."""
    trace_file, out = folder / "trace.csv", folder / "out"
    write(trace(rate, requests), trace_file, "azure")
    seconds, memory = simulate("--trace", str(trace_file), "--plan", str(path), "--out", str(out))
    report = json.loads((out / "report.json").read_text())
    simulation = report["simulation"]
    steps = simulation["engine_steps"]
    return {
        "load": rate,
        "requests/CPU s": requests / seconds,
        "CPU s": seconds,
        "iterations": simulation["iterations"],
        "engine steps": steps,
        "mean batch": simulation["mean_decode_batch"],
        "tokens/step": report["total_output_tokens"] / steps,
        "peak MB": memory,
    }


def show(name: str, row: dict[str, Any]) -> None:
    """A row as a line."""
    cells = [f"{key} {value:,.0f}" if abs(value) >= 100 else f"{key} {value:.3g}" for key, value in row.items()]
    print(f"{name:<24}" + "  ".join(cells), flush=True)


def steps_per_second() -> None:
    """Iterations a second taken one by one, and how their cost depends on the batch."""
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

    costs = {batch: min(cost(batch) for _ in range(3)) for batch in (8, 64, 256, 1024)}
    text = "  ".join(f"batch {batch}: {seconds * 1e6:.2f} us" for batch, seconds in costs.items())
    print(f"{'step by step':<24}{1 / costs[8]:,.0f} iterations/CPU s; {text}; 1024 / 8 = {costs[1024] / costs[8]:.3f}")


def writing_against_simulating(rate: float, requests: int, folder: Path) -> None:
    """What the result files cost beside the simulation itself."""
    result = run(trace(rate, requests), load_plan("bench-1"))
    before = sum(os.times()[:2])
    write_results(result, build_report(result), folder)
    spent = sum(os.times()[:2]) - before
    print(f"{'writing':<24}{spent:.2f} CPU s to report and write, {result.cpu_seconds:.2f} to simulate")


def main() -> None:
    """The whole benchmark, or a quick one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--no-long", action="store_true", help="leave out the 61-day trace")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds, memory = simulate("--trace", str(HERE / "azure-conv.yaml"), "--plan", "bench-1", "--limit", "1")
        print(f"{'start-up':<24}{seconds:.2f} CPU s with one request (of 100,000 generated), {memory:.0f} MB")
        for plan in ("bench-1", "bench-8"):
            for engine in POLICIES if plan == "bench-1" else POLICIES[:1]:
                path = plan_with(plan, engine, folder)
                limit = saturation(load_plan(str(path)))
                show(f"{plan} {engine}", {"saturation": limit, **measure(path, 0.8 * limit, args.requests, folder)})
                if plan == "bench-1" and engine == POLICIES[0]:
                    show("bench-1 sparse", measure(path, 0.5, args.requests, folder))
                    writing_against_simulating(0.8 * limit, args.requests, folder / "out")
        steps_per_second()
        if not args.no_long:
            long = HERE.parent / "traces/samples/burstgpt.yaml"
            seconds, memory = simulate("--trace", str(long), "--plan", "default", "--out", str(folder / "long"))
            report = json.loads((folder / "long/report.json").read_text())
            print(
                f"{'61 days, 4 replicas':<24}{report['num_prompts']:,} requests in {seconds:.0f} CPU s, "
                f"{memory:.0f} MB peak"
            )


if __name__ == "__main__":
    main()
