"""`make studies`: DistServe (OSDI'24) figure 1: what a GPU serves colocated, one phase only, or as 2P1D.

OPT-13B on A100-80GB, 512 prompt and 64 answer tokens, Poisson arrivals; TTFT P90 <= 0.4 s and TPOT P90 <= 0.04 s. Step
times are the authors' coefficients, for vLLM's kernels or DistServe's. The baseline is vLLM v0, as theirs.

Published: 1.6 colocated, 5.6 prefill only, 10 decode only, 3.3 requests/s a GPU for 2P1D: 2.1 times the colocated.

Why the split wins here: prompts that run between decodes make every token late, so the colocated GPU keeps the limit on
TPOT only while it is mostly idle. A part of the gain is the baseline's: with the faster kernels the ratio is 1.6. The
last table fills the decode GPU: prompts then wait with their blocks on the prefill GPUs, until those cannot admit more.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np

from servecast.configs.plan import Plan, plan_from
from servecast.costmodels.readers.distserve import DistServeCost
from servecast.sim.deploy import deploy
from servecast.sim.report.metrics import Finished
from servecast.sim.run import run
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable

PROMPT, OUTPUT = 512, 64
TTFT, TPOT = 0.4, 0.04
KV_TOKENS = 66144  # the authors' max_num_tokens.csv: OPT-13B, no parallelism
MODEL = "facebook/opt-13b"

# pools as (role, replicas); GPUs that count; the limits on TTFT and TPOT; tokens of an answer
SYSTEMS: dict[str, tuple[list[tuple[str, int]], int, float, float, int]] = {
    "colocated": ([("mixed", 1)], 1, TTFT, TPOT, OUTPUT),
    "prefill only": ([("mixed", 1)], 1, TTFT, inf, 1),
    "decode only": ([("prefill", 8), ("decode", 1)], 1, inf, TPOT, OUTPUT),  # more prefill than it can ever use
    "2P1D": ([("prefill", 2), ("decode", 1)], 3, TTFT, TPOT, OUTPUT),
}


def workload(rate: float, n: int, output: int, seed: int) -> RequestTable:
    """Poisson arrivals of equal requests."""
    arrival = np.cumsum(Stream(seed, "distserve").exponential(n)) / rate
    return RequestTable(arrival, np.full(n, PROMPT), np.full(n, output))


def plan(pools: list[tuple[str, int]], kv_tokens: int = KV_TOKENS) -> Plan:
    """A100s with the authors' KV capacity and token budget."""
    shared = {
        "hardware": "a100-80gb", "num_gpu_blocks_override": kv_tokens // 16, "max_model_len": 2048,
        "max_num_batched_tokens": 8192, "max_num_seqs": 1024,
    }  # fmt: skip
    named = [{"name": role, "role": role, "replicas": replicas, **shared} for role, replicas in pools]
    return plan_from({"model": "opt-13b", "engine": "vllm-0.6", "pools": named}, "distserve")


def attained(name: str, rate: float, cost: DistServeCost, n: int, seed: int, kv_tokens: int = KV_TOKENS) -> bool:
    """Whether a system keeps its P90 limits at `rate` requests/s."""
    pools, _, ttft, tpot, output = SYSTEMS[name]
    fleet = plan(pools, kv_tokens)
    priced = [replace(deployment, cost=cost) for deployment in deploy(fleet)]
    result = run(workload(rate, n, output, seed), fleet, seed=seed, deployments=priced)
    done = Finished(result)
    return bool(np.percentile(done.ttft, 90) <= ttft and np.percentile(done.tpot, 90) <= tpot)


def highest_rate(keeps: Callable[[float], bool]) -> float:
    """By bisection, within 1 %."""
    low, high = 0.25, 0.5
    while keeps(high):
        low, high = high, high * 2
    while high / low > 1.01:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low


def goodput(name: str, cost: DistServeCost, n: int, seed: int, kv_tokens: int = KV_TOKENS) -> float:
    """Requests/s a GPU within the limits."""
    rate = highest_rate(lambda r: attained(name, r, cost, n, seed, kv_tokens))
    return rate / SYSTEMS[name][1]


def back_pressure(cost: DistServeCost, n: int, seed: int, kv_tokens: int, rate: float = 9.0) -> tuple[float, ...]:
    """2P1D whose decode GPU has `kv_tokens`: means of queueing before the prefill and of the wait from the first token
    to the decode, seconds, and the greatest share of the first prefill GPU's blocks in use."""
    fleet = plan(SYSTEMS["2P1D"][0])
    small = replace(fleet.pools[1], num_gpu_blocks_override=kv_tokens // 16)
    fleet = replace(fleet, pools=(fleet.pools[0], small))
    priced = [replace(deployment, cost=cost) for deployment in deploy(fleet)]
    result = run(workload(rate, n, OUTPUT, seed), fleet, seed=seed, deployments=priced)
    done = Finished(result)
    used = max(table.columns()["used_blocks"].max() for table in result.recorder.leaps[:1])
    return float(done.component("queueing").mean()), float(done.component("transfer").mean()), used / (KV_TOKENS // 16)


def main() -> None:
    """Print a table for each kernel, over seeds and KV capacities."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two seeds, a third of the requests")
    parser.add_argument("--requests", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--kv-tokens", type=int, nargs="+", default=[KV_TOKENS // 2, KV_TOKENS])
    args = parser.parse_args()
    if args.quick:
        args.requests, args.seeds = args.requests // 3, 2
    folder = Path(os.environ.get("SERVECAST_DATA", "../shared/data")) / "distserve"
    print("kernels    KV tokens  " + "".join(f"{name:>14}" for name in SYSTEMS) + "  2P1D / colocated")
    for kernels in ("vllm", "distserve"):
        cost = DistServeCost(folder / f"profiler-a100-80g.{kernels}.json", MODEL)
        for kv_tokens in args.kv_tokens:
            rates = {
                name: [goodput(name, cost, args.requests, seed, kv_tokens) for seed in range(args.seeds)]
                for name in SYSTEMS
            }
            ratio = np.array(rates["2P1D"]) / np.array(rates["colocated"])
            cells = "".join(f"{np.mean(r):8.2f} ±{np.std(r):5.2f}" for r in rates.values())
            print(f"{kernels:10} {kv_tokens:9,}  {cells}  {ratio.mean():.2f} ±{ratio.std():.2f}", flush=True)
    print(
        "\ndecode KV tokens   queueing    first token to decode    prefill blocks used at most   (2P1D, 9 req/s, vllm)"
    )
    cost = DistServeCost(folder / "profiler-a100-80g.vllm.json", MODEL)
    for kv_tokens in (2_560, 10_240, KV_TOKENS):
        rows = [back_pressure(cost, args.requests, seed, kv_tokens) for seed in range(args.seeds)]
        queueing, waiting, used = np.mean(rows, 0)
        print(f"{kv_tokens:16,}  {queueing:7.2f} s  {waiting:21.2f} s  {used:27.0%}", flush=True)


if __name__ == "__main__":
    main()
