"""`make studies`: figures of docs/techniques.md that come from longer runs than a test's.

    python bench/studies/techniques.py [--seeds 3] [--parts slora niyama blocks]

Each part prints the published result beside its own; the plans are those of `configs/plans/techniques`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import servecast
from servecast.configs.plan import plan_from
from servecast.configs.strict import read_mapping
from servecast.errors import InputError
from servecast.sim.report.report import build_report
from servecast.sim.run import run
from servecast.traces.columns import Labels
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable

PLANS = Path(servecast.__file__).parent / "configs" / "plans" / "techniques"
ADAPTERS = (1, 20, 50, 100, 200)
PUBLISHED = {"S1": (1.83, 1.81, 1.79, 1.78, 1.78), "S2": (1.74, 1.68, 1.61, 1.59, 1.58)}  # requests/s
RANKS = {"S1": [8], "S2": [64, 32, 16, 8]}
MODELS = ("chat", "code", "summary")


def read(name: str) -> dict[str, Any]:
    """A plan as a mapping."""
    return read_mapping(PLANS / f"{name}.yaml")


def figures(table: RequestTable, plan: dict[str, Any]) -> dict[str, Any]:
    """The report of one run."""
    return build_report(run(table, plan_from(plan)))


def slora(seeds: int) -> Iterator[str]:
    """S-LoRA on an A10G: requests/s by adapters, relative to one; arrivals at 2.5 requests/s, lengths U[8, 512]."""
    for setting, ranks in RANKS.items():
        published = PUBLISHED[setting]
        yield f"{setting} published   " + " ".join(f"{rate / published[0]:6.3f}" for rate in published)
        for memory in ("unified", "static"):
            rates = [np.mean([_served(n, ranks, memory, seed) for seed in range(1, seeds + 1)]) for n in ADAPTERS]
            yield f"{setting} {memory:<11} " + " ".join(f"{rate / rates[0]:6.3f}" for rate in rates)


def _served(adapters: int, ranks: list[int], memory: str, seed: int) -> float:
    """Requests/s; 0 where the plan does not start."""
    s = Stream(seed, "s-lora")
    arrival = np.cumsum(s.exponential(600)) / 2.5
    table = RequestTable(arrival - arrival[0], 8 + s.integers(600, 505), 8 + s.integers(600, 505))
    plan = read("s-lora")
    plan["adapters"] |= {"count": adapters, "ranks": ranks, "memory": memory}
    try:
        rate: float = figures(table, plan)["request_throughput"]
    except InputError:
        return 0.0
    return rate


def niyama(seeds: int) -> Iterator[str]:
    """Niyama near saturation: answers later than 1 s + 25 ms a token, by rate, against fixed chunks."""
    systems: dict[str, dict[str, Any]] = {"niyama": {}}
    for chunk in (256, 512, 1024, 2552):
        systems[f"chunks of {chunk}"] = {"batch": "sarathi", "max_num_batched_tokens": chunk}
    for rate in (1.0, 1.5, 2.0):
        for name, change in systems.items():
            shares = []
            for seed in range(seeds):
                s = Stream(seed, "niyama")
                arrival = np.cumsum(s.exponential(300)) / rate
                table = RequestTable(arrival - arrival[0], np.full(300, 6000), np.full(300, 150))
                plan = read("niyama")
                plan["pools"][0] |= change
                c = run(table, plan_from(plan)).recorder.requests.columns()
                shares.append(np.mean(c["last_token"] - c["arrival"] > (1 + 149 * 0.025) * 2**36))
            yield f"{rate:g}/s  {name:<15} late {np.mean(shares):6.1%}"


def blocks(seeds: int) -> Iterator[str]:
    """BlockLLM: three models on one A100, P95 latency and time a token; published against no sharing: P95 -33.5 %."""
    turns = read("shared-gpus")
    turns["defaults"]["gpu_memory_utilization"] = 0.3
    turns["shared_gpus"] = [{"pools": list(MODELS), "quantum": 1e-3}]
    plain, shared = read("blockllm"), read("blockllm")
    plain["pools"][0]["blocks"]["equivalent_layers"] = 0
    systems = {"turns": turns, "turns, loaded": read("shared-gpus"), "blocks": plain, "blocks, assembled": shared}
    for rate in (1.0, 4.0, 10.0):
        for name, plan in systems.items():
            reports = [figures(_labelled(seed, rate), plan) for seed in range(seeds)]
            p95, tpot = (np.mean([r[key] for r in reports]) for key in ("p95_e2el_ms", "mean_tpot_ms"))
            yield f"{rate:4g}/s  {name:<18} P95 {p95 / 1e3:6.1f} s, {tpot:6.1f} ms a token"


def _labelled(seed: int, rate: float) -> RequestTable:
    """300 requests, exponential lengths up to three times their means, for any of the models."""
    s = Stream(seed, "blocks")
    arrival = np.cumsum(s.exponential(300)) / rate
    prompt, output = (np.clip(s.exponential(300) * mean, 8, 3 * mean).astype(np.int64) for mean in (450, 160))
    codes = Stream(seed, "models").integers(300, 3).astype(np.int32)
    return RequestTable(arrival - arrival[0], prompt, output, model=Labels(codes, MODELS))


PARTS: dict[str, Callable[[int], Iterator[str]]] = {"slora": slora, "niyama": niyama, "blocks": blocks}


def main() -> None:
    """Tables, part by part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    for name in arguments.parts:
        print((PARTS[name].__doc__ or "").strip())
        for line in PARTS[name](arguments.seeds):
            print(f"  {line}", flush=True)


if __name__ == "__main__":
    main()
