"""`make studies`: what becomes of KV caches between the turns of agents (Continuum, arXiv 2511.02230 v6).

The paper's traces are not public: these are the synthetic twins of `traces/samples`, on Llama-3.1-8B and one A100-80GB
with vLLM's scheduler, chunks of 2048 tokens and a swept KV capacity. Published: about twice the mean completion time
of vLLM's at 8B, up to 3.7 times with 50 turns; nothing without a queue; vLLM < program FCFS < static TTL < Continuum;
InferCept about like vLLM once offloading is fast; PLAS better than FCFS on web search and worse on SWE-Bench, where
late turns are nearly done.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from servecast.configs.plan import Plan, plan_from
from servecast.sim.programreport import program_figures
from servecast.sim.run import run
from servecast.traces.laws import LogNormal
from servecast.traces.load import draw, load_generator
from servecast.traces.table import RequestTable

SAMPLES = Path(__file__).parents[2] / "traces" / "samples"
FCFS, BY_PROGRAM = {"queue": "fcfs"}, {"queue": "program_fcfs"}
SYSTEMS: dict[str, dict[str, Any]] = {
    "vLLM": FCFS,
    "end of turn": {**FCFS, "retention": "end_of_turn"},
    "Autellix PLAS": {"queue": "plas"},
    "InferCept": {**FCFS, "retention": "infercept"},
    "program FCFS": BY_PROGRAM,
    "static TTL 2 s": {**BY_PROGRAM, "retention": {"name": "static_ttl", "seconds": 2.0}},
    "Continuum, fork": {**BY_PROGRAM, "retention": {"name": "continuum", "variant": "fork"}},
    "Continuum": {**BY_PROGRAM, "retention": "continuum"},
    "giving way": {**BY_PROGRAM, "retention": {"name": "continuum", "gives_way": True}},
}


def plan(queue: str = "fcfs", tokens: int = 128_000, max_num_seqs: int = 256, **keys: Any) -> Plan:
    """One engine with room for so many tokens; `keys` of the plan."""
    pool = {
        "name": "agents", "hardware": "a100-80gb", "queue": queue, "max_num_seqs": max_num_seqs,
        "max_num_batched_tokens": 2048, "max_model_len": 40960, "enable_prefix_caching": True,
        "num_gpu_blocks_override": tokens // 16,
    }  # fmt: skip
    return plan_from({"model": "llama-3.1-8b", "engine": "vllm-0.12", "pools": [pool], **keys}, "continuum")


def workload(name: str, rate: float, seed: int, turns: float = 0.0, programs: int = 100) -> RequestTable:
    """A twin at another rate (programs/s), with this median of turns if one is given."""
    spec = load_generator(SAMPLES / f"{name}.yaml")
    (kind,) = spec.classes
    if turns:
        agent = dataclasses.replace(kind.agent, turns=LogNormal(turns, kind.agent.turns.sigma, 0.0, 8 * turns))
        kind = dataclasses.replace(kind, agent=agent)
    return draw(dataclasses.replace(spec, rate=rate, programs=programs, classes=(kind,)), seed)


def figures(table: RequestTable, **keys: Any) -> dict[str, Any]:
    """Of a run of `plan(**keys)`."""
    return program_figures(run(table, plan(**keys)))


def mean_jct(name: str, rate: float, seeds: int, turns: float = 0.0, **keys: Any) -> float:
    """Mean completion time over seeds, seconds."""
    runs = [figures(workload(name, rate, seed, turns), **keys)["mean_jct_ms"] for seed in range(seeds)]
    return sum(runs) / len(runs) / 1e3


def _table(title: str, columns: list[str], rows: dict[str, list[float]]) -> None:
    print(f"\n{title}\n{'':<18}" + "".join(f"{c:>16}" for c in columns))
    for name, values in rows.items():
        print(f"{name:<18}" + "".join(f"{v:>16.1f}" for v in values), flush=True)


def main() -> None:
    """Tables over load, KV capacity, turns and slots."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    for name, rates in (("swe-agent", (0.13, 0.4, 0.8)), ("web-search", (0.05, 0.2, 0.4))):
        for tokens in (128_000, 192_000, 256_000):
            rows = {s: [mean_jct(name, r, seeds, tokens=tokens, **keys) for r in rates] for s, keys in SYSTEMS.items()}
            _table(f"{name}, {tokens:,} tokens: mean JCT, s", [f"{r:g} programs/s" for r in rates], rows)
    turns = (5.0, 10.0, 20.0)
    rows = {  # the same requests/s
        s: [mean_jct("swe-agent", 5 / t, seeds, t, **SYSTEMS[s]) for t in turns] for s in ("vLLM", "Continuum")
    }
    _table("swe-agent at 5 calls/s: mean JCT, s", [f"{t:g} turns" for t in turns], rows)
    slots = {"swe-agent, 8 slots": ("swe-agent", 0.5, 8), "web-search, 8": ("web-search", 0.3, 8)}
    rows = {
        title: [mean_jct(n, r, seeds, tokens=960_000, max_num_seqs=k, **SYSTEMS[s]) for s in ("vLLM", "Autellix PLAS")]
        for title, (n, r, k) in slots.items()
    }
    _table("slots bind, memory does not: mean JCT, s", ["vLLM", "PLAS"], rows)


if __name__ == "__main__":
    main()
