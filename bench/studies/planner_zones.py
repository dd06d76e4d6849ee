"""`make studies`: the planner with GPUs in two zones, against exhaustive simulation on random small problems.

H100s here and some other GPUs, cheaper ones, in another zone; links of random speed one way, both ways or not at all;
long prompts of an 8B model, with or without mixed replicas. The oracle replays fleets in order of price until one meets
the SLO.
"""

from __future__ import annotations

import argparse
import random

import numpy as np

from servecast.configs.slo import SLO, Objective
from servecast.configs.topology import FabricLink
from servecast.planner.candidates import find_candidates
from servecast.planner.inventory import Inventory, Stock
from servecast.planner.measure.cache import Cache
from servecast.planner.measure.judge import Judge
from servecast.planner.measure.points import Capacity
from servecast.planner.measure.targets import Targets
from servecast.planner.measure.workload import Workload
from servecast.planner.milp import default_solver
from servecast.planner.search.exhaustive import cheapest, fleets
from servecast.planner.search.market import Market
from servecast.planner.search.search import Search
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable

_WAYS = ((), ("east->west",), ("west->east",), ("east->west", "west->east"))


def random_case(seed: int) -> tuple[Inventory, RequestTable, SLO]:
    """One of the problems."""
    draw = random.Random(seed)
    other, price = draw.choice(["h100", "a100-80gb"]), round(draw.uniform(0.6, 2.5), 2)
    inventory = Inventory(
        "llama-3.1-8b",
        {
            "here": Stock(draw.randint(2, 4), zone="east", hardware="h100"),
            "there": Stock(draw.randint(2, 4), zone="west", hardware=other, price_per_hour=price),
        },
        role=draw.choice([("prefill", "decode"), ("mixed", "prefill", "decode")]),
        tensor_parallel_size=(1,),
        max_num_batched_tokens=(None,),
        zone_links={
            way: FabricLink(10 ** draw.uniform(9, 11), draw.choice([0.0, 1e-3, 0.05])) for way in draw.choice(_WAYS)
        },
    )
    stream, requests = Stream(seed, "zones"), 200
    arrival = np.cumsum(stream.exponential(requests)) / draw.uniform(5, 12)
    means = 6000, draw.choice([100, 300])
    sizes = [np.maximum(2, stream.gamma(requests, 4.0) / 4 * mean).astype(np.int64) for mean in means]
    limits = f"ttft p90 <= {draw.choice([450, 700, 1500])}ms", f"tpot p90 <= {draw.choice([14, 25, 40])}ms"
    slo = SLO({}, {}, tuple(Objective.parse(text, "slo") for text in limits))
    return inventory, RequestTable(arrival - arrival[0], *sizes), slo


def main() -> None:
    """A line a problem."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(16)))
    args = parser.parse_args()
    print(f"{'seed':>4}{'fleets':>8}{'bound':>8}{'planned':>9}{'optimum':>9}  links, GB/s; plan")
    for seed in args.seeds:
        inventory, table, slo = random_case(seed)
        capacity = Capacity(inventory, Workload.of(table), Targets.of(slo, len(table)), Judge(Cache(None)))
        search = Search(Market(capacity, find_candidates(inventory, table)[0]), solver=default_solver())
        found = search.run()
        best = cheapest(search)
        prices = [f"{tried.price:.2f}" if tried else "none" for tried in (found.best, best)]
        links = ", ".join(f"{way} {link.bandwidth / 1e9:.1f}" for way, link in inventory.zone_links.items()) or "none"
        print(
            f"{seed:>4}{len(fleets(search)):>8}{found.bound:8.2f}{prices[0]:>9}{prices[1]:>9}  {links}; "
            f"{found.best.name if found.best else 'none'}",
            flush=True,
        )


if __name__ == "__main__":
    main()
