"""`make studies`: Llumnix (OSDI'24) against INFaaS++ and round robin, on its set-up and with its lengths.

16 x LLaMA-7B on A10, 792 KV blocks of 16 tokens each, vLLM v0, 12,288 batched tokens. Step times are the roofline's
with the preset's host times (estimated), so rates are our own: each mix is swept from low load to saturation.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from servecast.configs.plan import Plan, plan_from
from servecast.sim.metrics import Finished
from servecast.sim.run import Run, run
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable

HERE = Path(__file__).parent
ALPHA = {128: 2.0, 256: 1.5, 512: 1.15}  # exponent of the power law by its mean
MEANS = {"S": 128, "M": 256, "L": 512}
LONGEST = 6144
BLOCKS = 792


def lengths(n: int, mean: int, stream: Stream) -> np.ndarray:
    """p(k) ~ k**-alpha for k = 1 .. 2 mean - 1, scaled to the mean, rounded up, at most 6,144 tokens (artifact)."""
    k = np.arange(1, 2 * mean)
    share = k ** -ALPHA[mean]
    share /= share.sum()
    drawn = k[np.searchsorted(np.cumsum(share), stream.uniform(n), side="right").clip(max=len(k) - 1)]
    return np.minimum(np.ceil(drawn * (mean / (k @ share))), LONGEST).astype(np.int64)


def workload(mix: str, rate: float, n: int, seed: int, cv: float = 1.0, high: float = 0.0) -> RequestTable:
    """`mix` as in "L-S": long prompts, short answers. Gamma gaps with `cv`; a share `high` has priority -1."""
    stream = Stream(seed, f"llumnix {mix}")
    gaps = stream.gamma(n, 1 / cv**2) * cv**2 / rate
    prompts, outputs = (lengths(n, MEANS[letter], stream) for letter in mix.split("-"))
    priority = np.where(stream.uniform(n) < high, -1, 0).astype(np.int64) if high else None
    return RequestTable(np.cumsum(gaps), prompts, outputs, priority=priority)


def plan(router: Any, rebalancer: Any = None, blocks: int = BLOCKS, replicas: int = 16, **keys: Any) -> Plan:
    """The paper's cluster. LLaMA's position limit is lifted, as the authors' lengths need it."""
    pool = {
        "name": "llumnix", "hardware": "a10", "replicas": replicas, "num_gpu_blocks_override": blocks,
        "max_model_len": 2 * LONGEST, "max_num_batched_tokens": 2 * LONGEST, **keys.pop("pool", {}),
    }  # fmt: skip
    data = {
        "model": str(HERE / "llama-7b-16k.json"), "engine": "vllm-0.6", "pools": [pool], "router": router,
        "rebalancer": rebalancer, "links": {"network": {"bandwidth": 2e9}}, "topology": {"nic": "node"}, **keys,
    }  # fmt: skip
    return plan_from(data, "llumnix")


def figures(result: Run) -> dict[str, float]:
    """Seconds: prefill is from arrival to the first token, decode a token after it, loss what preemption cost."""
    done = Finished(result)
    return {
        "prefill": done.ttft.mean(), "prefill_p99": np.percentile(done.ttft, 99),
        "decode": done.tpot.mean(), "decode_p99": np.percentile(done.tpot, 99),
        "e2e": done.e2el.mean(), "e2e_p99": np.percentile(done.e2el, 99),
        "loss": done.component("preemption").mean(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mix", default="L-S")
    parser.add_argument("--rates", type=float, nargs="+", default=[10, 14, 18])
    parser.add_argument("--requests", type=int, default=10000)
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    systems = {
        "round robin": ("round_robin", None), "INFaaS++": ("infaas", None), "Llumnix": ("llumnix", "llumnix"),
    }  # fmt: skip
    for rate in args.rates:
        for name, (router, rebalancer) in systems.items():
            rows = []
            for seed in range(args.seeds):
                with_model = run(workload(args.mix, rate, args.requests, seed), plan(router, rebalancer), seed=seed)
                rows.append(figures(with_model))
            mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
            print(
                rate,
                name,
                {k: round(v, 3) for k, v in mean.items()},
                round(with_model.cpu_seconds, 1),
                with_model.services
                and with_model.services.migrator
                and (with_model.services.migrator.done, with_model.services.migrator.aborted),
            )


if __name__ == "__main__":
    main()
