"""`make studies`: what GPU clocks are worth to the planner, on the Azure conversation trace and Llama-3.1-8B.

Three problems, each with and without clocks to choose from: the least power of mixed replicas, the least power of
prefill and decode replicas, and the front of cost against power over two kinds of GPUs. What a clock does to times and
power is a model out of publications (docs/cost-tables.md), so these are savings of that model.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from servecast.configs.slo import SLO, Objective
from servecast.planner.inventory import Inventory, Stock
from servecast.planner.milp import default_solver
from servecast.planner.search.planning import Options, plan_fleet
from servecast.traces.load import load
from servecast.traces.table import RequestTable
from servecast.traces.transform import scale_rate

TRACE = "traces/azure/AzureLLMInferenceTrace_conv.csv.gz"
H100S = {"h100": Stock(6)}
CASES: list[tuple[str, int, float, tuple[str, str], tuple[int, ...], dict[str, Any]]] = [
    ("mixed", 4000, 6.0, ("ttft p99 <= 1s", "tpot p99 <= 50ms"), (1400, 1000), {"gpus": H100S}),
    ("roles", 1500, 3.0, ("ttft p99 <= 0.4s", "tpot p99 <= 25ms"), (900,),
     {"gpus": {"h100": Stock(3)}, "role": ("prefill", "decode")}),
    ("front", 3000, 4.0, ("ttft p99 <= 1s", "tpot p99 <= 60ms"), (1200,),
     {"gpus": {"h100": Stock(3), "l40s": Stock(6)}}),
]  # fmt: skip


def least(table: RequestTable, limits: tuple[str, str], clocks: tuple[int | None, ...], **more: Any) -> list[Any]:
    """The fleets of the report: the plan, or the front of two kinds of GPUs."""
    inventory = Inventory(
        "llama-3.1-8b", tensor_parallel_size=(1,), max_num_batched_tokens=(None,),
        choices={"gpu_clock_mhz": clocks}, **more,
    )  # fmt: skip
    front = len(inventory.gpus) > 1
    options = Options(solver=default_solver(), goal="cost" if front else "energy", compare=False, pareto=front)
    slo = SLO({}, {}, tuple(Objective.parse(text, "slo") for text in limits))
    report = plan_fleet(table, slo, inventory, options).report
    found: list[Any] = report["pareto"] if front else [report["plan"]]
    return found


def main() -> None:
    """A line a fleet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", type=Path, default=Path(os.environ.get("SERVECAST_DATA", "../shared/data"), TRACE))
    args = parser.parse_args()
    if not args.trace.exists():
        raise SystemExit(f"{args.trace}: no such file; SERVECAST_DATA names the folder of recorded traces")
    whole = load(args.trace)
    print(f"{'':<7}{'requests/s':>11}{'clocks':>12}{'USD/h':>8}{'watts':>8}  fleet: TTFT P99, TPOT P99")
    for name, requests, scale, limits, clocks, more in CASES:
        table = scale_rate(whole.take(slice(0, requests)), scale)
        for choice in ((None,), (None, *clocks)):
            for fleet in least(table, limits, choice, **more):
                counts = " + ".join(f"{n} x {kind}" for kind, n in fleet["counts"].items())
                values = ", ".join(f"{o['value'] * 1e3:.1f} ms" for o in fleet["objectives"])
                chosen = "/".join(map(str, choice[1:])) or "none"
                figures = f"{requests / table.arrival[-1]:>11.1f}{chosen:>12}{fleet['usd_per_hour']:>8.2f}"
                print(f"{name:<7}{figures}{fleet['watts']:>8.0f}  {counts}: {values}", flush=True)


if __name__ == "__main__":
    main()
