"""`make studies`: Mooncake's traces over prefill replicas: routing, copies of hot prefixes, the store (FAST'25).

Llama-3-70B on nodes of eight A100-80GB, prefill and decode pools; the published trace, replayed at several rates. The
paper's mean TTFT: 3.07 s by predicted TTFT with prefixes copied between caches, 3.58 s by predicted TTFT on local
caches, 5.27 s by load, 19.65 s at random.

Why this order: a cached prefix saves prefill time, a short queue saves waiting, and only the prediction weighs one
against the other; the cache alone lets a popular replica queue, load alone computes what another one has, and chance
does both. A copy frees the prediction from the choice: the prefix goes where the queue is short.

The second table takes the memory away from the replicas and puts it into one store in the DRAM of all nodes: what one
of them has computed, all can load.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from servecast.configs.plan import Plan, plan_from
from servecast.sim.report.metrics import Finished
from servecast.sim.run import run
from servecast.traces.load import load
from servecast.traces.table import RequestTable
from servecast.traces.transform import scale_rate

PREDICTED = "predicted_ttft"
COPIES = {"peers": True, "load": "kvcache_balancing"}
ARMS: dict[str, tuple[Any, Any]] = {  # router and tiers
    "predicted, copies": (PREDICTED, COPIES),
    "predicted TTFT": (PREDICTED, None),
    "cache": ({"name": "prefix_affinity", "min_share": 0.5}, None),  # a system prompt alone is no reason to queue
    "load": ({"name": "least_outstanding", "by": "tokens"}, None),
    "random": ("random", None),
}
CACHE_TOKENS = 3_000_000  # of a prefill replica (the paper's DRAM cache of a node)
DEVICE_TOKENS = 150_000  # in the second table, where the cache is below the device
TOKEN_BYTES = 327_680


def stores(cache_tokens: int, nodes: int) -> dict[str, Any]:
    """So many tokens a prefill replica below the device: of its own, or in one store of all nodes."""
    gib = cache_tokens * TOKEN_BYTES / (1 << 30)
    spread = {"name": "store", "capacity": gib * nodes, "shared": True, "distributed": True}
    return {
        "one store": {"levels": [spread]},
        "of its own": {"levels": [{"name": "dram", "capacity": gib}]},
        "none": None,
    }


def plan(
    router: object, tiers: object = None, prefill: int = 8, decode: int = 8, cache_tokens: int = CACHE_TOKENS
) -> Plan:
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
            "tiers": tiers,
            "topology": {"placement": "by_pool"},
            "disaggregation": {"mode": "layer_wise"},
        },
        "mooncake",
    )


def mean_ttft(
    table: RequestTable, router: object, tiers: object = None, seed: int = 0, **keys: int
) -> tuple[float, float]:
    """Mean TTFT, seconds, and the share of prompt tokens that were not computed."""
    done = Finished(run(table, plan(router, tiers, **keys), seed=seed))
    return float(done.ttft.mean()), float(done.column("cached_tokens").sum() / done.column("prompt_tokens").sum())


def row(stretches: Sequence[RequestTable], arms: Sequence[tuple[object, object]], **keys: int) -> str:
    """A cell an arm: mean and standard deviation over stretches of the trace; and how many of those have this order."""
    found = np.array(
        [[mean_ttft(stretch, *arm, seed, **keys) for arm in arms] for seed, stretch in enumerate(stretches)]
    )
    ttft, cached = found.mean(axis=0).T
    spread = found.std(axis=0)[:, 0]
    cells = [f"{a:8.2f} ±{b:5.2f} s {c:6.1%}" for a, b, c in zip(ttft, spread, cached, strict=True)]
    steps = np.diff(found[:, :, 0])
    ordered = int(np.all(steps >= 0, axis=1).sum())
    return f"{' '.join(cells)}   in order: {ordered} of {len(found)}"


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
    print("req/s  KV tokens  " + "".join(f"{name:>24}" for name in ARMS) + "   (mean TTFT, cached share)")
    for rate in args.rates:
        scaled = [scale_rate(stretch, rate) for stretch in stretches]
        for cache in (CACHE_TOKENS // 10, CACHE_TOKENS):
            cells = row(scaled, list(ARMS.values()), prefill=args.prefill, cache_tokens=cache)
            print(f"{rate:5g}  {cache:9,}  {cells}", flush=True)
    print("\nreq/s  DRAM tokens" + "".join(f"{name:>24}" for name in stores(1, 1)) + "   (by predicted TTFT)")
    for rate in args.rates:
        scaled = [scale_rate(stretch, rate) for stretch in stretches]
        for cache in (CACHE_TOKENS // 10, CACHE_TOKENS):
            below = [(PREDICTED, tiers) for tiers in stores(cache, args.prefill).values()]
            print(
                f"{rate:5g}  {cache:9,}  {row(scaled, below, prefill=args.prefill, cache_tokens=DEVICE_TOKENS)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
