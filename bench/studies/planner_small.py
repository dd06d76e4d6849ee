"""`make studies`: the planner against exhaustive simulation on 20 random small problems.

Two kinds of GPUs under a random load and SLO, 100 to 300 fleets each: a few replicas with two token budgets, or many
with one. The oracle replays fleets in order of price until one meets the SLO. Counted are the requests that the search
simulated, capacity points and replays together, against those of replaying every fleet.
"""

from __future__ import annotations

import argparse
import random

import numpy as np

from servecast.configs.slo import SLO, Objective
from servecast.planner.candidates import find_candidates
from servecast.planner.inventory import Inventory, Stock
from servecast.planner.measure.cache import Cache
from servecast.planner.measure.judge import Judge
from servecast.planner.measure.points import Capacity
from servecast.planner.measure.targets import Targets
from servecast.planner.measure.workload import Workload
from servecast.planner.search.exhaustive import cheapest, fleets
from servecast.planner.search.market import Market
from servecast.planner.search.search import Search
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable


def trace(rate: float, requests: int = 1000, shape: float = 1.0, seed: int = 1) -> RequestTable:
    """Gamma gaps (CV = 1 / sqrt(shape)) and geometric lengths, about 600 tokens in and 60 out."""
    stream = Stream(seed, "test trace")
    arrival = np.cumsum(stream.gamma(requests, shape) / shape / rate)
    prompt = np.minimum(1 + stream.exponential(requests) * 600, 6000).astype(np.int64)
    output = np.minimum(1 + stream.exponential(requests) * 60, 600).astype(np.int64)
    return RequestTable(arrival - arrival[0], prompt, output)


def slo(*objectives: str) -> SLO:
    """An SLO of objectives only."""
    return SLO({}, {}, tuple(Objective.parse(text, "slo") for text in objectives))


def market(inventory: Inventory, table: RequestTable, asked: SLO, judge: Judge | None = None) -> Market:
    """The candidates of an inventory, surveyed."""
    candidates, _ = find_candidates(inventory, table)
    capacity = Capacity(inventory, Workload.of(table), Targets.of(asked, len(table)), judge or Judge(Cache(None)))
    return Market(capacity, candidates)


def random_case(seed: int) -> tuple[Inventory, RequestTable, SLO]:
    """One of the problems."""
    draw = random.Random(seed)
    gpus = draw.sample(["h100", "a100-80gb", "l40s", "a10g"], 2)
    wide = draw.random() < 0.5
    counts = (12, 16) if wide else (3, 4)
    inventory = Inventory(
        "llama-3.1-8b",
        {gpu: Stock(draw.randint(*counts), price_per_hour=round(draw.uniform(0.5, 4), 2)) for gpu in gpus},
        tensor_parallel_size=(1,),
        max_num_batched_tokens=(None,) if wide else (None, 512),
    )
    table = trace(draw.uniform(50, 120) if wide else draw.uniform(25, 45), 2000, draw.choice([0.3, 1.0]), seed)
    return inventory, table, slo(f"ttft p99 <= {draw.choice([1, 2])}s", f"tpot p99 <= {draw.choice([40, 80])}ms")


def main() -> None:
    """A line a problem."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(20)))
    args = parser.parse_args()
    print(
        f"{'seed':>4}{'fleets':>8}{'bound':>8}{'planned':>9}{'optimum':>9}{'over':>8}{'requests':>10}{'fewer':>8}  plan"
    )
    for seed in args.seeds:
        inventory, table, asked = random_case(seed)
        judge = Judge(Cache(None))
        search = Search(market(inventory, table, asked, judge), solver="highs")
        found, spent = search.run(), judge.requests
        best, number = cheapest(search), len(fleets(search))
        cells = ["-", "-", "-"]
        if found.best and best:
            cells = [f"{found.best.price:.2f}", f"{best.price:.2f}", f"{found.best.price / best.price - 1:.2%}"]
        elif found.best or best:
            cells[2] = "MISSED"
        shown = (
            f"{found.bound:8.2f}{cells[0]:>9}{cells[1]:>9}{cells[2]:>8}{spent:>10,}{number * len(table) / spent:>7.1f}x"
        )
        print(f"{seed:>4}{number:>8}{shown}  {found.best.name if found.best else 'none'}", flush=True)


if __name__ == "__main__":
    main()
