"""`make bench-scale`: how the cost of a run grows with requests, replicas, batch and cached blocks.

CPU seconds of the simulation itself (no start-up, no files) as Markdown tables, each with the exponent that it shows:
the slope of log(cost) over log(size) by least squares. 1 is linear, 0 is free. The machine may be shared: every case
is measured three times, in turns with the others, and the least counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np

from servecast.configs.plan import Plan, load_plan
from servecast.configs.slo import SLO, Objective
from servecast.planner.capacity.capacity import capacity
from servecast.sim.core import Request
from servecast.sim.kv.prefix import PrefixPool
from servecast.sim.report.report import package_version
from servecast.sim.run import run
from servecast.traces.columns import PrefixBlocks
from servecast.traces.generate import generate
from servecast.traces.spec import load_spec
from servecast.traces.table import RequestTable
from servecast.traces.transform import scale_rate

AZURE = Path(__file__).parent / "azure-conv.yaml"
TRIES = 3
LOAD = 0.8  # of what the plan can carry


def trace(rate: float, requests: int) -> RequestTable:
    """Poisson arrivals at `rate` requests/s with the lengths of the Azure conversation trace."""
    return scale_rate(generate(dataclasses.replace(load_spec(AZURE), requests=requests)), rate)


@cache
def carried() -> float:
    """The load, requests/s, that one replica of the plan can carry without its queue growing."""
    patient = SLO({}, {}, (Objective.parse("e2el p99 <= 1h", "objectives"),))
    best = capacity(trace(1.0, 4000), load_plan("bench-1"), patient, start=8.0, precision=0.02).best
    assert best
    return best.request_rate


def with_replicas(replicas: int) -> Plan:
    """The benchmark's plan with so many replicas."""
    plan = load_plan("bench-1")
    return dataclasses.replace(plan, pools=(dataclasses.replace(plan.pools[0], replicas=replicas),))


def by_requests(requests: int) -> float:
    """Seconds for a trace of so many requests on one replica."""
    return run(trace(LOAD * carried(), requests), load_plan("bench-1")).cpu_seconds


def by_replicas(replicas: int, requests: int = 64_000) -> float:
    """Seconds for the same requests on so many replicas, each loaded alike."""
    return run(trace(LOAD * carried() * replicas, requests), with_replicas(replicas)).cpu_seconds


def by_batch(batch: int) -> float:
    """Seconds of one iteration with so many decodes, taken by itself."""
    plan = load_plan("bench-1")
    pool = dataclasses.replace(plan.pools[0], max_num_seqs=1024, num_gpu_blocks_override=4_000_000)
    taken = []
    for tokens in (2_000, 12_000):  # the difference leaves out admissions and ends
        table = RequestTable(np.zeros(batch), np.full(batch, 5), np.full(batch, tokens))
        result = run(table, dataclasses.replace(plan, pools=(pool,)), step_by_step=True)
        iterations = sum(int(t.columns()["iterations"].sum()) for t in result.recorder.leaps)
        taken.append((iterations, result.cpu_seconds))
    (few, little), (many, much) = taken
    return (much - little) / (many - few)


def by_cached_blocks(blocks: int, chain: int = 64, requests: int = 4_000) -> float:
    """Seconds of one request in the block store: its prompt of 64 blocks looked up, held, cached and let go.

    The store is full of such prompts, so every block that is taken costs the oldest its place.
    """
    fill = blocks // chain
    prompts = (np.arange((fill + requests) * chain) % ((fill + 1) * chain)).reshape(-1, chain)  # one more than fits
    pool = PrefixPool(blocks, 16, PrefixBlocks.of(16, "floor", prompts.tolist()))

    def life(row: int) -> None:
        request = Request(row, row, 0, chain * 16)
        request.blocks = chain
        pool.lookup(request, {})
        pool.admit(request)
        pool.cover(request, chain * 16)
        pool.release(request)

    for row in range(fill):
        life(row)
    started = time.process_time()
    for row in range(fill, fill + requests):
        life(row)
    return (time.process_time() - started) / requests


def exponent(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """The slope of log(cost) over log(size)."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def show(
    title: str, unit: str, scale: float, sizes: Sequence[int], cost: Callable[[int], float], per_size: bool
) -> None:
    """One table: size, cost, and cost for each of the size where the whole grows with it."""
    cost(sizes[0])  # warm
    tries = [[cost(size) for size in sizes] for _ in range(TRIES)]
    costs = [min(column) for column in zip(*tries, strict=True)]
    each = " | us each" if per_size else ""
    print(f"\n{title}: exponent {exponent(sizes, costs):.2f}\n\n| | {unit}{each} |\n|---:|{'---:|' * (1 + per_size)}")
    for size, value in zip(sizes, costs, strict=True):
        more = f" | {value / size * 1e6:.1f}" if per_size else ""
        print(f"| {size:,} | {value * scale:.3g}{more} |", flush=True)


def machine() -> str:
    """Where, when and with what this is measured."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = (line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line)
        cpu = next(named, cpu)
    versions = f"servecast {package_version()}, Python {platform.python_version()}, numpy {np.__version__}"
    return f"{datetime.now(UTC).date()}, {cpu} ({os.cpu_count()} cores), {versions}, `python {' '.join(sys.argv)}`"


def main() -> None:
    """Every table, or smaller ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="stop at a tenth of the sizes")
    most = 10 if parser.parse_args().quick else 1
    print(machine())
    print(f"one replica of bench-1 carries {carried():.3g} requests/s; the load is {LOAD:.0%} of that a replica")

    def upto(sizes: Sequence[int]) -> list[int]:
        return [size for size in sizes if size <= sizes[-1] // most]

    requests = upto([10_000, 20_000, 40_000, 80_000, 160_000, 320_000])
    show("Requests, on one replica", "CPU s", 1, requests, by_requests, True)
    replicas = upto([1, 2, 4, 8, 16, 32, 64, 128, 256])
    show("Replicas, 64,000 requests on all of them", "CPU s", 1, replicas, by_replicas, False)
    show("Batch, every iteration by itself", "us an iteration", 1e6, upto([8, 32, 128, 512, 1024]), by_batch, False)
    blocks = upto([1 << power for power in range(12, 21)])
    show("Cached blocks, prompts of 64", "us a request", 1e6, blocks, by_cached_blocks, False)


if __name__ == "__main__":
    main()
