"""`make studies`: routing of Mooncake's traces over prefill replicas, each with its own large prefix cache (FAST'25).

Llama-3-70B on nodes of eight A100-80GB, prefill and decode pools; the published trace, replayed at several rates. The
paper's mean TTFT: 3.07 s by predicted TTFT with prefixes copied between caches, 3.58 s by predicted TTFT on local
caches, 5.27 s by load, 19.65 s at random. Copying is not modelled here, so the first of these is left out.

Why this order: a cached prefix saves prefill time, a short queue saves waiting, and only the prediction weighs one
against the other; the cache alone lets a popular replica queue, load alone computes what another one has, and chance
does both.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

from servecast.configs.plan import Plan, plan_from
from servecast.sim.metrics import Finished
from servecast.sim.run import run
from servecast.traces.load import load
from servecast.traces.table import RequestTable
from servecast.traces.transform import scale_rate

ROUTERS = {
    "predicted TTFT": "predicted_ttft",
    "cache": {"name": "prefix_affinity", "min_share": 0.5},  # a system prompt alone is no reason to queue
    "load": {"name": "least_outstanding", "by": "tokens"},
    "random": "random",
}  # fmt: skip
CACHE_TOKENS = 3_000_000  # of a prefill replica (the paper's DRAM cache of a node)


def plan(router: object, prefill: int = 8, decode: int = 8, cache_tokens: int = CACHE_TOKENS) -> Plan:
    """Prefill and decode nodes, as many blocks as the DRAM cache holds on the prefill side."""
    shared = {"hardware": "a100-80gb", "tensor_parallel_size": 8, "max_model_len": 131072}
    pools = [
        {"name": "prefill", "role": "prefill", "replicas": prefill, **shared,
         "num_gpu_blocks_override": cache_tokens // 16},
        {"name": "decode", "role": "decode", "replicas": decode, **shared},
    ]  # fmt: skip
    model = str(Path(__file__).parent / "llama-3-70b-128k.json")
    return plan_from(
        {
            "model": model,
            "engine": "vllm-0.19",
            "pools": pools,
            "router": router,
            "disaggregation": {"mode": "layer_wise"},
        },
        "mooncake",
    )


def mean_ttft(table: RequestTable, router: object, seed: int = 0, **keys: int) -> tuple[float, float]:
    """Mean TTFT, seconds, and the share of prompt tokens found in a cache."""
    done = Finished(run(table, plan(router, **keys), seed=seed))
    return float(done.ttft.mean()), float(done.column("cached_tokens").sum() / done.column("prompt_tokens").sum())


def main() -> None:
    """A table over rates and cache sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two stretches, a third of the requests, the last rate")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.7, 1.4])
    parser.add_argument("--prefill", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=5, help="stretches of the trace, one after the other")
    args = parser.parse_args()
    if args.quick:
        args.requests, args.seeds, args.rates = args.requests // 3, 2, args.rates[-1:]
    folder = Path(os.environ.get("SERVECAST_DATA", "../shared/data")) / "traces" / "mooncake"
    trace, n = load(folder / "conversation_trace.jsonl.gz"), args.requests
    stretches = [trace.take(slice(seed * n, (seed + 1) * n)) for seed in range(args.seeds)]
    print("req/s  KV tokens  " + "".join(f"{name:>24}" for name in ROUTERS) + "   (mean TTFT, cached share)")
    for rate in args.rates:
        for cache in (CACHE_TOKENS // 3, CACHE_TOKENS):
            cells = []
            for router in ROUTERS.values():
                rows = [
                    mean_ttft(scale_rate(stretch, rate), router, seed, prefill=args.prefill, cache_tokens=cache)
                    for seed, stretch in enumerate(stretches)
                ]
                ttft, cached = np.mean(rows, axis=0)
                cells.append(f"{ttft:8.2f} ±{np.std(rows, axis=0)[0]:5.2f} s {cached:6.1%}")
            print(f"{rate:5g}  {cache:9,}  " + " ".join(cells), flush=True)


if __name__ == "__main__":
    main()
