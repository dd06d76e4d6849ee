"""`make studies`: Splitwise's cluster designs (ISCA'24) under its nine slowdown SLOs, on the authors' step times.

BLOOM-176B on machines of eight GPUs, lengths of the Azure conversation or code trace, Poisson arrivals. SLOs are
slowdowns against an idle DGX-A100: TTFT 2 / 3 / 6, TBT and E2E 1.25 / 1.5 / 5 at P50 / P90 / P99. A design's throughput
is the highest rate at which it keeps all nine.

Why the split wins: a machine that does both phases lengthens every token by the prompts that run beside it, so TBT
binds while it is busy with prompts for a fifth of its time; a prompt machine only has to keep its queue short.

Published: AA 2.15 x Baseline-A100 at equal power; HA 1.18 x Baseline-H100 at 10 % lower cost; AA 1.4 x Baseline-H100 at
equal cost; HHcap equal to HH in throughput with 25 % less power (against Baseline-H100).
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from servecast.configs.plan import Plan, plan_from
from servecast.costmodels.base import TICKS_PER_SECOND
from servecast.costmodels.readers.splitwise import SplitwiseCost
from servecast.sim.deploy import deploy
from servecast.sim.report.metrics import Finished
from servecast.sim.run import run
from servecast.traces.load import load
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable

HERE = Path(__file__).parent
MODEL, MODEL_CARD = "bloom-176b", str(HERE / "bloom-176b.json")
AROUND = 15.0  # seconds of arrivals before and after those that count: an answer takes ten, so machines fill and empty
KV_TOKENS = 83_000  # 8 x 80 GiB less 352 GB of weights, at 4.01 MB a token
LIMITS = {
    ("ttft", 50): 2.0, ("ttft", 90): 3.0, ("ttft", 99): 6.0, ("tbt", 50): 1.25, ("tbt", 90): 1.5, ("tbt", 99): 5.0,
    ("e2e", 50): 1.25, ("e2e", 90): 1.5, ("e2e", 99): 5.0,
}  # fmt: skip
KINDS = {"A": ("a100-80gb", "a100-80gb"), "H": ("h100", "h100-80gb"), "C": ("h100", "h100-80gb-pcap")}
COST = {"A": 2.21, "H": 4.76, "C": 4.76}  # the authors' relative prices and power of a machine
POWER = {"A": 24.8, "H": 44.0, "C": 30.8}


class Design(NamedTuple):
    """Machines by kind: of the prompt pool (or of all) and of the token pool."""

    prompt: tuple[str, int]
    token: tuple[str, int] | None = None

    def total(self, each: dict[str, float]) -> float:
        """Cost or power."""
        return sum(each[kind] * n for kind, n in filter(None, self))


ISO_POWER = {
    "Baseline-A100": Design(("A", 70)), "Baseline-H100": Design(("H", 40)), "AA": Design(("A", 45), ("A", 25)),
    "HH": Design(("H", 25), ("H", 15)), "HA": Design(("H", 25), ("A", 26)), "HHcap": Design(("H", 25), ("C", 21)),
}  # fmt: skip
ISO_COST = {
    "Baseline-A100": Design(("A", 86)), "Baseline-H100": Design(("H", 40)), "AA": Design(("A", 51), ("A", 35)),
    "HH": Design(("H", 25), ("H", 15)), "HA": Design(("H", 30), ("A", 21)), "HHcap": Design(("H", 30), ("C", 10)),
}  # fmt: skip
ISO_POWER_CODE = ISO_POWER | {
    "AA": Design(("A", 55), ("A", 15)), "HH": Design(("H", 35), ("H", 5)), "HA": Design(("H", 35), ("A", 8)),
    "HHcap": Design(("H", 35), ("C", 7)),
}  # fmt: skip
ISO_COST_CODE = ISO_COST | {
    "AA": Design(("A", 66), ("A", 20)), "HH": Design(("H", 35), ("H", 5)), "HA": Design(("H", 35), ("A", 10)),
    "HHcap": Design(("H", 35), ("C", 7)),
}  # fmt: skip
SETS = {  # designs, and the trace whose lengths they are for
    "iso-power": (ISO_POWER, "conv"), "iso-cost": (ISO_COST, "conv"),
    "iso-power code": (ISO_POWER_CODE, "code"), "iso-cost code": (ISO_COST_CODE, "code"),
}  # fmt: skip


def folder() -> Path:
    """Where the published data are."""
    return Path(os.environ.get("SERVECAST_DATA", "../shared/data"))


def workload(rate: float, seconds: float, seed: int, lengths: str = "conv") -> RequestTable:
    """Poisson arrivals; prompt and answer lengths drawn from the trace independently, as the authors draw them."""
    trace = load(folder() / "traces" / "azure" / f"AzureLLMInferenceTrace_{lengths}.csv.gz")
    stream = Stream(seed, "splitwise")
    n = round(rate * (seconds + 2 * AROUND))
    arrival = np.cumsum(stream.exponential(n)) / rate
    prompts, outputs = (
        column[(stream.uniform(n) * len(column)).astype(np.int64)]
        for column in (trace.prompt_tokens, trace.output_tokens)
    )
    return RequestTable(arrival, prompts, outputs)


def plan(design: Design, kv_tokens: int = KV_TOKENS, scale: float = 1.0) -> Plan:
    """A design; `scale` : of its machines."""
    shared = {
        "tensor_parallel_size": 8, "num_gpu_blocks_override": kv_tokens // 16, "max_model_len": 16384,
    }  # fmt: skip
    sides = [side for side in design if side]
    pools = [
        {"name": name, "hardware": KINDS[kind][0], "replicas": max(1, round(n * scale)), **shared}
        for name, (kind, n) in zip(("prompt", "token"), sides, strict=False)
    ]
    keys: dict[str, Any] = {"router": {"name": "least_outstanding", "by": "pending"}}
    if design.token:
        keys = {
            "router": {"name": "splitwise", "prompt_pool": "prompt", "token_pool": "token"},
            "disaggregation": {"direction": "push", "backlog": 1.0},
            "topology": {"placement": "by_pool"}, "links": {"network": {"bandwidth": 36e9, "latency": 0}},
        }  # fmt: skip
    return plan_from({"model": MODEL_CARD, "engine": "splitwise-sim", "pools": pools, **keys}, "splitwise")


def slowdowns(
    design: Design, rate: float, seconds: float, seed: int, lengths: str = "conv", **keys: Any
) -> dict[tuple[str, int], float]:
    """Each SLO's percentile, as a multiple of an idle DGX-A100's time for the same request."""
    table_file = folder() / "splitwise" / "perf_model.csv.gz"
    fleet = plan(design, **keys)
    kinds = dict(zip(("prompt", "token"), (side[0] for side in design if side), strict=False))
    priced = [
        replace(d, cost=SplitwiseCost(table_file, MODEL, KINDS[kinds[d.pool.name]][1])) for d in deploy(fleet)
    ]  # fmt: skip
    table = workload(rate * keys.get("scale", 1.0), seconds, seed, lengths)
    done = Finished(run(table, fleet, seed=seed, deployments=priced))
    idle = SplitwiseCost(table_file, MODEL, "a100-80gb").stages[0]
    prompts, tokens = done.column("prompt_tokens"), done.column("generated")
    ttft = np.array([idle.prompt.at(n) for n in prompts.tolist()])
    tbt = np.array([idle.token.at(n) for n in prompts.tolist()])
    ratios = {
        "ttft": done.ttft / ttft, "tbt": (done.e2el - done.ttft) / tokens / tbt,
        "e2e": done.e2el / (ttft + tbt * (tokens - 1)),
    }  # fmt: skip
    arrival = done.column("arrival") / TICKS_PER_SECOND
    counts = (arrival >= AROUND) & (arrival < AROUND + seconds)
    return {(name, p): float(np.percentile(ratios[name][counts], p)) for name, p in LIMITS}


def keeps(found: dict[tuple[str, int], float]) -> bool:
    """Whether all nine SLOs are kept."""
    return all(found[key] < limit for key, limit in LIMITS.items())


def throughput(design: Design, seconds: float, seed: int, guess: float, **keys: Any) -> float:
    """The highest rate within the SLOs, requests/s of the whole design, by bisection within 2 % around a guess."""

    def kept(rate: float) -> bool:
        return keeps(slowdowns(design, rate, seconds, seed, **keys))

    low, high = guess, guess * 1.1
    while not kept(low):
        low, high = low / 1.1, low
        if low < 1:
            return 0.0
    while high > guess and kept(high):
        low, high = high, high * 1.1
    while high / low > 1.02:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if kept(middle) else (low, middle)
    return low


def throughputs(design: Design, seconds: float, seeds: int, guess: float, **keys: Any) -> list[float]:
    """The same over seeds; each begins where the one before it ended."""
    found: list[float] = []
    for seed in range(seeds):
        found.append(throughput(design, seconds, seed, max(found[-1:] or [guess]) or guess, **keys))
    return found


def margins(design: Design, rate: float, seconds: float, seed: int, **keys: Any) -> str:
    """Each SLO's distance to its limit at a rate: 0 % = just kept."""
    found = slowdowns(design, rate, seconds, seed, **keys)
    return "  ".join(f"{name} P{p} {1 - found[name, p] / limit:+.0%}" for (name, p), limit in LIMITS.items())


def main() -> None:
    """Designs ranked by throughput, over KV capacities and seeds, with the margin on each SLO."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a fifth of the machines, one capacity")
    parser.add_argument("--seconds", type=float, default=30.0, help="of arrivals that count (the authors: 600)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--kv-tokens", type=int, nargs="+", default=[KV_TOKENS, KV_TOKENS // 2])
    args = parser.parse_args()
    keys: dict[str, Any] = {"scale": 0.2} if args.quick else {}
    for name in args.sets:
        designs, keys["lengths"] = SETS[name]
        for kv_tokens in args.kv_tokens[: 1 if args.quick else None]:
            print(f"\n{name}, {kv_tokens:,} KV tokens a machine: requests/s within all nine SLOs, and margins there")
            rates = {
                system: throughputs(design, args.seconds, args.seeds, 100.0, kv_tokens=kv_tokens, **keys)
                for system, design in designs.items()
            }
            for system in sorted(rates, key=lambda s: -np.mean(rates[s])):
                design, mean = designs[system], float(np.mean(rates[system]))
                times = (mean / np.mean(rates[base]) for base in ("Baseline-A100", "Baseline-H100"))
                print(
                    f"{system:14}{mean:7.1f} ±{np.std(rates[system]):4.1f}   x Baseline-A100 {next(times):.2f},"
                    f" -H100 {next(times):.2f}; cost {design.total(COST):.0f}, power {design.total(POWER):.0f}\n    "
                    + margins(design, mean, args.seconds, 0, kv_tokens=kv_tokens, **keys), flush=True,
                )  # fmt: skip


if __name__ == "__main__":
    main()
