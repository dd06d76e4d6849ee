"""`make studies`: text-to-SQL workflows with deadlines on unequal accelerators (HexGen-Flow, arXiv 2505.05286).

The synthetic workflows of `traces/samples/text-to-sql.yaml` on two A100, an L40S and an RTX A6000 with 16 slots each.
Published against vLLM (calls dealt out in turn, first come first served): deadlines 1.41 times tighter on average, up
to 1.67; 95th percentile 1.42 to 1.56 times lower. The tightest deadline that 95 % of the programs meet is their 95th
percentile.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from servecast.configs.plan import plan_from
from servecast.sim.report.programs import program_figures
from servecast.sim.run import run
from servecast.traces.load import load
from servecast.traces.transform import scale_rate

TRACE = Path(__file__).parents[2] / "traces" / "samples" / "text-to-sql.yaml"
SYSTEMS = {
    "vLLM, in turn": ("fcfs", "round_robin"),
    "least outstanding": ("fcfs", "least_outstanding"),
    "+ urgency": ("hexgen", "least_outstanding"),
    "HexGen-Flow": ("hexgen", "hexgen"),
}


def figures(rate: float, queue: str, router: str, seed: int = 0) -> dict[str, Any]:
    """Of so many programs a second."""
    pools = [
        {"name": name, "hardware": name, "replicas": replicas}
        for name, replicas in (("a100-80gb", 2), ("l40s", 1), ("rtx-a6000", 1))
    ]
    defaults = {"max_num_seqs": 16, "queue": queue, "max_model_len": 20480}
    plan = {"model": "llama-3.1-8b", "engine": "vllm-0.12", "defaults": defaults, "pools": pools, "router": router}
    return program_figures(run(scale_rate(load(TRACE, seed=seed), rate / 0.5), plan_from(plan)))


def main() -> None:
    """A table over load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    for rate in (0.25, 0.35, 0.5):
        for name, system in SYSTEMS.items():
            runs = [figures(rate, *system, seed=seed) for seed in seeds]
            p95, met = [f["p95_jct_ms"] / 1e3 for f in runs], [f["deadlines_met_share"] for f in runs]
            spread = f"{mean(p95):7.1f} ± {stdev(p95):4.1f} s, 60 s met by {mean(met):6.1%} ± {stdev(met):5.1%}"
            print(f"{rate:5g}/s  {name:<18} P95 {spread}", flush=True)


if __name__ == "__main__":
    main()
