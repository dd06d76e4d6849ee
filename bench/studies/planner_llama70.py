"""`make studies`: a full search, Llama-3.1-70B on up to 32 GPUs of three types, on the Azure conversation trace.

Mixed, prefill and decode replicas, TP 1 to 8, PP 1 to 4 and two token budgets under TTFT P99 and TPOT P99; first
without any simulated point, then with all of them cached, and beside it what simpler rules would have rented. A machine
may be shared, so CPU seconds are shown as well: of the search, and of the processes that simulate side by side.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from servecast.configs.slo import SLO, Objective
from servecast.planner.inventory import Inventory, Stock
from servecast.planner.milp import default_solver
from servecast.planner.search.planning import Options, Planned, plan_fleet
from servecast.traces.load import load

INVENTORY = Inventory(
    "llama-3.1-70b", {"h100": Stock(16), "a100-80gb": Stock(8), "l40s": Stock(8)},
    role=("mixed", "prefill", "decode"), tensor_parallel_size=(1, 2, 4, 8), pipeline_parallel_size=(1, 2, 4),
    max_num_batched_tokens=(None, 512),
)  # fmt: skip
LIMITS = ("ttft p99 <= 3s", "tpot p99 <= 80ms")
TRACE = "traces/azure/AzureLLMInferenceTrace_conv.csv.gz"


def search(trace: Path, cache: Path, compare: bool) -> tuple[Planned, str]:
    """The plan, and what it took."""
    slo = SLO({}, {}, tuple(Objective.parse(text, "slo") for text in LIMITS))
    before, started = os.times(), time.monotonic()
    options = Options(solver=default_solver(), compare=compare, cache=cache)
    planned = plan_fleet(load(trace), slo, INVENTORY, options)
    after, wall = os.times(), time.monotonic() - started
    own = after.user + after.system - before.user - before.system
    others = after.children_user + after.children_system - before.children_user - before.children_system
    effort = planned.report["effort"]
    return planned, (
        f"{wall:6.1f} s wall, {own:5.1f} s CPU and {others:5.1f} s in parallel processes: "
        f"{effort['simulations']} simulations of {effort['simulated_requests']:,} requests, {effort['cached']} cached"
    )


def rows(report: dict[str, Any]) -> list[tuple[str, dict[str, int], float, str]]:
    """rule, fleet, USD an hour, verdict."""
    plan = report["plan"]
    values = ", ".join(f"{o['objective'].split(' <')[0]} {o['value']:.3g} s" for o in plan["objectives"])
    found = [("this plan", plan["counts"], plan["usd_per_hour"], f"meets the SLO: {values}")]
    for b in report["baselines"]:
        found.append(
            (b["rule"], b["counts"], b["usd_per_hour"], "meets the SLO" if b["met"] else f"misses {b['missed']}")
        )
        if not b["met"] and b["counts_that_meet"]:
            found.append(
                ("  scaled until it meets", b["counts_that_meet"], b["usd_per_hour_that_meets"], "meets the SLO")
            )
    return found


def main() -> None:
    """Two searches and a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", type=Path, default=Path(os.environ.get("SERVECAST_DATA", "../shared/data"), TRACE))
    parser.add_argument("--cache", type=Path, help="keep the simulated points here")
    args = parser.parse_args()
    if not args.trace.exists():
        raise SystemExit(f"{args.trace}: no such file; SERVECAST_DATA names the folder of recorded traces")
    with tempfile.TemporaryDirectory() as folder:
        cache = args.cache or Path(folder)
        print("cold:  ", search(args.trace, cache, False)[1], flush=True)
        print("cached:", search(args.trace, cache, False)[1], flush=True)
        planned, took = search(args.trace, cache, True)
    print("rules: ", took)
    report = planned.report
    print(f"value ${report['value']:.2f}/h, bound {report['bound']:.2f}, gap {report['gap']:.1%}; {report['stopped']}")
    for rule, counts, usd, verdict in rows(report):
        fleet = " + ".join(f"{n} x {name}" for name, n in sorted(counts.items()))
        print(f"{rule:<36}${usd:6.2f}  {fleet}: {verdict}")


if __name__ == "__main__":
    main()
