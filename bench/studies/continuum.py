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
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from servecast.configs.plan import Plan, plan_from
from servecast.sim.report.programs import program_figures
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


Cell = tuple[float, float]


def mean_jct(name: str, rate: float, seeds: int, turns: float = 0.0, **keys: Any) -> Cell:
    """Mean completion time, seconds: (mean, standard deviation) over seeds."""
    runs = [figures(workload(name, rate, seed, turns), **keys)["mean_jct_ms"] / 1e3 for seed in range(seeds)]
    return mean(runs), stdev(runs) if seeds > 1 else 0.0


def _table(title: str, columns: list[str], rows: Mapping[str, Callable[[], list[Cell]]]) -> None:
    print(f"\n{title}\n{'':<18}" + "".join(f"{c:>18}" for c in columns), flush=True)
    for name, cells in rows.items():
        print(f"{name:<18}" + "".join(f"{m:>10.1f} ± {s:<5.1f}" for m, s in cells()), flush=True)


def main() -> None:
    """Tables over load, KV capacity, turns and slots."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tokens", type=int, nargs="+", default=[128_000, 192_000, 256_000], help="KV capacities")
    args = parser.parse_args()
    seeds: int = args.seeds
    for name, rates in (("swe-agent", (0.13, 0.4, 0.8)), ("web-search", (0.05, 0.2, 0.4))):
        for tokens in args.tokens:

            def over_rates(system: str, name: str = name, rates: Any = rates, tokens: int = tokens) -> list[Cell]:
                return [mean_jct(name, rate, seeds, tokens=tokens, **SYSTEMS[system]) for rate in rates]

            title = f"{name}, {tokens:,} tokens: mean JCT, s"
            _table(title, [f"{r:g} programs/s" for r in rates], {s: partial(over_rates, s) for s in SYSTEMS})
    turns = (5.0, 10.0, 20.0)

    def over_turns(system: str) -> list[Cell]:  # the same requests/s
        return [mean_jct("swe-agent", 5 / t, seeds, t, **SYSTEMS[system]) for t in turns]

    pair = {s: partial(over_turns, s) for s in ("vLLM", "Continuum")}
    _table("swe-agent at 5 calls/s: mean JCT, s", [f"{t:g} turns" for t in turns], pair)

    def with_slots(name: str, rate: float) -> list[Cell]:
        systems = ("vLLM", "Autellix PLAS")
        return [mean_jct(name, rate, seeds, tokens=960_000, max_num_seqs=8, **SYSTEMS[s]) for s in systems]

    slots = {"swe-agent, 8 slots": ("swe-agent", 0.5), "web-search, 8": ("web-search", 0.3)}
    rows = {title: partial(with_slots, *case) for title, case in slots.items()}
    _table("slots bind, memory does not: mean JCT, s", ["vLLM", "PLAS"], rows)


if __name__ == "__main__":
    main()
