"""`make studies`: which GPUs for which stage of an agent, so that deadlines are kept at the least price.

A 70B model plans and reviews, an 8B model works (`traces/samples/planner-workers.yaml`); each may be on another GPU, in
another number ("Efficient and Scalable Agentic AI with Heterogeneous Systems", 2025: an older GPU beside a new one at
about the cost of the newest alone, within the end-to-end limit). Fleets are replayed from the cheapest up, so the first
that keeps enough deadlines over all seeds is the cheapest of the space. Prices are list prices of the cards.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from servecast.configs.plan import plan_from
from servecast.errors import InputError
from servecast.sim.deploy import deploy
from servecast.sim.deployment import Deployment
from servecast.sim.report.programs import program_figures
from servecast.sim.run import run
from servecast.traces.load import load
from servecast.traces.table import RequestTable

TRACE = Path(__file__).parents[2] / "traces" / "samples" / "planner-workers.yaml"
GPUS = ("h100", "a100-80gb", "l40s", "rtx-a6000")
LARGE = [(gpu, tp, n) for gpu, tp, n in product(GPUS, (4, 8), (1, 2)) if tp * n <= 8]  # GPU, TP degree, replicas
SMALL = [(gpu, 1, n) for gpu, n in product(GPUS, (1, 2, 3, 4))]


class Fleet(NamedTuple):
    """What is rented: name, $/h, the plan's pools, and the types of GPU."""

    name: str
    price: float
    pools: list[dict[str, Any]]
    gpus: set[str]


def fleets() -> Iterator[Fleet]:
    """All that fit their memory, the cheapest first."""
    found = []
    for large, small in product(LARGE, SMALL):
        pools = [
            {"name": name, "serves": [name], "model": model, "hardware": gpu, "tensor_parallel_size": tp, "replicas": n}
            for name, model, (gpu, tp, n) in (("large", "llama-3.1-70b", large), ("small", "llama-3.1-8b", small))
        ]
        try:
            price = sum(d.usd_per_hour or 0.0 for d in deployed(pools))
        except InputError:  # no room for the model
            continue
        name = " + ".join(f"{n} x {tp} {gpu}" for gpu, tp, n in (large, small))
        found.append(Fleet(name, price, pools, {large[0], small[0]}))
    yield from sorted(found, key=lambda fleet: (fleet.price, fleet.name))


def deployed(pools: list[dict[str, Any]]) -> list[Deployment]:
    """The pools of a fleet."""
    return deploy(plan_of(pools))


def plan_of(pools: list[dict[str, Any]]) -> Any:
    """The plan of a fleet."""
    defaults = {"max_model_len": 16384}
    return plan_from({"model": "llama-3.1-70b", "engine": "vllm-0.19", "defaults": defaults, "pools": pools})


def kept(fleet: Fleet, tables: list[RequestTable], target: float) -> list[float]:
    """The share of deadlines that are kept, by seed; ends where the mean can no longer reach the target."""
    shares: list[float] = []
    for table in tables:
        if sum(shares) + len(tables) - len(shares) < target * len(tables):
            break
        shares.append(program_figures(run(table, plan_of(fleet.pools)))["deadlines_met_share"])
    return shares


def main() -> None:
    """The cheapest fleet of any GPUs, of one type, and of H100 alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--target", type=float, default=0.99, help="mean share of the deadlines")
    args = parser.parse_args()
    tables = [load(TRACE, seed=seed) for seed in range(args.seeds)]
    wanted: dict[str, Callable[[set[str]], bool]] = {
        "any": lambda gpus: True,
        "one type": lambda gpus: len(gpus) == 1,
        "h100": lambda gpus: gpus == {"h100"},
    }
    tried = 0
    for fleet in fleets():
        names = [name for name, fits in wanted.items() if fits(fleet.gpus)]
        if not names:
            continue
        tried += 1
        shares = kept(fleet, tables, args.target)
        if len(shares) < len(tables) or mean(shares) < args.target:
            continue
        spread = stdev(shares) if len(shares) > 1 else 0.0
        for name in names:
            del wanted[name]
            print(
                f"{name:<9} ${fleet.price:6.2f}/h  {fleet.name:<40} {mean(shares):.1%} ± {spread:.1%} of the deadlines"
            )
        if not wanted:
            break
    print(f"{tried} fleets replayed, the cheapest first")


if __name__ == "__main__":
    main()
