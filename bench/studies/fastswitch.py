"""`make studies`: what context switches cost where priorities change all the time (FastSwitch, arXiv 2411.18424).

Llama-3-8B on one A10 with 60 GiB of swap space, priorities drawn anew every 25 iterations, stretches of the bundled
chat trace in place of ShareGPT's conversations. Published against vLLM 0.3.3: tail TTFT 1.4 to 5.8 times lower, tail
TBT up to 11.2 times.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from servecast.configs.plan import Plan, load_plan
from servecast.sim.report.report import build_report
from servecast.sim.run import run
from servecast.traces.load import load
from servecast.traces.table import RequestTable
from servecast.traces.transform import scale_rate

TRACE = Path(__file__).parents[2] / "traces" / "samples" / "chat-sample.jsonl.gz"
SYSTEMS: dict[str, dict[str, Any]] = {
    "vLLM": {},
    "+ groups of 16": {"group": 16},
    "+ kept copies": {"group": 16, "keep": True},
    "FastSwitch": {"group": 16, "keep": True, "overlap": True},
}


def plan(kv: dict[str, Any], seed: int = 0) -> Plan:
    """The technique's plan, with parts of it taken away."""
    whole = load_plan(str(Path(__file__).parents[2] / "configs" / "plans" / "techniques" / "fastswitch.yaml"))
    queue = {"name": "drawn_priority", "period": 25, "seed": seed}
    pool = dataclasses.replace(whole.pools[0], kv={"name": "swap", **kv}, queue=queue)
    return dataclasses.replace(whole, pools=(pool,))


def stretch(trace: RequestTable, rate: float, number: int, requests: int = 400) -> RequestTable:
    """One of consecutive parts of a trace, at so many requests a second on average."""
    part = trace.take(slice(number * requests, (number + 1) * requests))
    return scale_rate(part, rate * float(part.arrival[-1] - part.arrival[0]) / requests)


def main() -> None:
    """A table over load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="stretches of the trace, each with priorities of its own")
    parser.add_argument("--rates", type=float, nargs="+", default=[1.0, 1.2, 1.35])
    args = parser.parse_args()
    trace = load(TRACE)
    for rate in args.rates:
        for name, kv in SYSTEMS.items():
            reports = [
                build_report(run(stretch(trace, rate, seed), plan(kv, seed), seed=seed)) for seed in range(args.seeds)
            ]
            ttft, itl = ([r[key] / 1e3 for r in reports] for key in ("p99_ttft_ms", "p99_itl_ms"))
            cells = " ".join(f"{mean(c):8.2f} ± {stdev(c):5.2f} s" for c in (ttft, itl))
            print(f"{rate:5g}/s  {name:<16} P99 TTFT, P99 ITL {cells}", flush=True)


if __name__ == "__main__":
    main()
