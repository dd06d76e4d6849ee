"""`make studies`: aiconfigurator's sizing of a service against the planner's, on the same measured kernel times.

aiconfigurator 0.12.0 sizes Qwen3-32B (bf16, prompts of 4,000 and answers of 1,000 tokens, TTFT 1 s, TPOT 25 ms, tables
of vLLM 0.24 on the H200) for 50 requests/s: 3.369 a replica of four GPUs at batch 80, times fifteen. It knows no
arrivals. Here its fleet serves 6,000 such requests that come regularly, at random (Poisson) or in bursts (gamma, CV
3), beside the fleet that `servecast plan` finds for each; the limits hold for 99 % of the requests.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from servecast.configs.plan import Plan, plan_from
from servecast.configs.slo import SLO, Objective
from servecast.costmodels.commands import read_source
from servecast.costmodels.tablefile import save_tables
from servecast.planner.inventory import Inventory, Stock
from servecast.planner.milp import default_solver
from servecast.planner.search.planning import Options, plan_fleet
from servecast.sim.report.report import build_report
from servecast.sim.run import run
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable

RATE, REQUESTS = 50.0, 6000
LIMITS = SLO({}, {}, tuple(Objective.parse(text, "slo") for text in ("ttft p99 <= 1s", "tpot p99 <= 25ms")))
REPLICAS, BATCH = 15, 80  # of the published sizing
STOCK = {"h200": Stock(128)}


def trace(cv: float) -> RequestTable:
    """Requests of one size with gamma gaps; a CV of 0 is a steady stream."""
    gaps = Stream(0, "arrivals").gamma(REQUESTS, cv**-2) * cv**2 if cv else np.ones(REQUESTS)
    sizes = np.full(REQUESTS, 4000), np.full(REQUESTS, 1000)
    return RequestTable(np.cumsum(gaps) / RATE, *sizes)


def published(cost: Path, batch: int | None) -> Plan:
    """aiconfigurator's fleet, with its batch size as a limit or without one."""
    pool = {"name": "h200", "hardware": "h200", "replicas": REPLICAS, "tensor_parallel_size": 4, "max_num_seqs": batch}
    return plan_from({"model": "qwen3-32b", "engine": "vllm-0.19", "cost": str(cost), "pools": [pool]})


def shown(objectives: Sequence[dict[str, Any]]) -> str:
    """The percentiles, and whether they are within the limits."""
    verdict = "met   " if all(o["met"] for o in objectives) else "MISSED"
    ttft, tpot = (o["value"] for o in objectives)
    return f"{verdict} TTFT P99 {ttft:.2f} s, TPOT P99 {tpot * 1e3:.1f} ms"


def main() -> None:
    """With aiconfigurator's kernel times, if they are there."""
    data = Path(os.environ.get("SERVECAST_DATA", "../shared/data"), "kernel-db/h200_sxm")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=Path, default=data, help="aiconfigurator's tables of the H200")
    tables = parser.parse_args().tables
    if not tables.exists():
        raise SystemExit(f"{tables}: no such folder; SERVECAST_DATA names the folder of recorded data")
    with tempfile.TemporaryDirectory() as folder:
        cost = Path(folder, "h200.zip")
        save_tables(read_source(str(tables), options={"gpu": "h200"}), cost)
        compare(cost)


def compare(cost: Path) -> None:
    """Three kinds of arrivals; the published fleet, and the planner's of mixed replicas and of any roles."""
    for name, cv in (("steady", 0.0), ("Poisson", 1.0), ("CV 3", 3.0)):
        table = trace(cv)
        for words, batch in ((f"batch {BATCH}", BATCH), ("any batch", None)):
            report = build_report(run(table, published(cost, batch)), LIMITS)
            verdict = shown(report["slo"]["objectives"])
            print(f"{name:<8}{verdict}  aiconfigurator: {REPLICAS} x TP4, {words}, {4 * REPLICAS} GPUs", flush=True)
        for roles in (("mixed",), ("mixed", "prefill", "decode")):
            inventory = Inventory(
                "qwen3-32b", STOCK, max_num_batched_tokens=(None,), role=roles, plan={"cost": str(cost)}
            )
            print(f"{name:<8}{planned(table, inventory)}", flush=True)


def planned(table: RequestTable, inventory: Inventory) -> str:
    """The planner's fleet, in a line."""
    before = os.times()
    report = plan_fleet(table, LIMITS, inventory, Options(default_solver(), compare=False)).report
    took = sum(os.times()[:4]) - sum(before[:4])
    fleet = " + ".join(f"{n} x {name}" for name, n in report["plan"]["counts"].items())
    gpus, bound = (usd / inventory.price("h200") for usd in (report["value"], report["bound"]))
    verdict = shown(report["plan"]["objectives"])
    return f"{verdict}  servecast: {fleet}, {gpus:.0f} GPUs (bound {bound:.1f}), {took:.0f} CPU s"


if __name__ == "__main__":
    main()
