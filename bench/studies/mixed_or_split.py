"""`make studies`: disaggregation does not always win: the same GPUs mixed with chunked prefill, or split in two roles.

Llama-3.1-8B on four H100, vLLM v1. A split plan needs each phase's share of the work to match its share of the GPUs,
and it keeps a request's KV memory in only a part of them; in return no prompt ever delays a token. So it wins where the
limit on TPOT is tight and prompts are long, and loses where that limit is loose: then mixed replicas lend whatever one
phase leaves idle to the other. It loses too where KV memory is short: prompts wait in one half of the GPUs, answers in
the other, and neither can use what the other one has free. Goodput: the highest rate with 90 % of the requests within
both limits.
"""

from __future__ import annotations

import argparse

import numpy as np

from servecast.configs.plan import Plan, plan_from
from servecast.sim.report.metrics import Finished
from servecast.sim.run import run
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable

# prompt and answer tokens, limits on TTFT and TPOT in seconds
CASES = {
    "long prompts, tight TPOT": (6000, 150, 2.0, 0.012),
    "long prompts, loose TPOT": (6000, 150, 2.0, 0.1),
}
PLANS = {"4 mixed": (("mixed", 4),), "2P2D": (("prefill", 2), ("decode", 2)), "3P1D": (("prefill", 3), ("decode", 1))}


def plan(name: str, kv_blocks: int | None = None) -> Plan:
    """One of `PLANS`; `kv_blocks` of every engine, by default what fits."""
    pools = [
        {"name": role, "role": role, "hardware": "h100", "replicas": n, "max_model_len": 16384,
         "num_gpu_blocks_override": kv_blocks}
        for role, n in PLANS[name]
    ]  # fmt: skip
    return plan_from({"model": "llama-3.1-8b", "engine": "vllm-0.19", "pools": pools}, name)


def attained(case: str, name: str, rate: float, n: int, seed: int, kv_blocks: int | None = None) -> float:
    """The share of requests within both limits at `rate` requests/s; lengths are Gamma with CV 0.5."""
    prompt, output, ttft, tpot = CASES[case]
    stream = Stream(seed, "mixed or split")
    arrival = np.cumsum(stream.exponential(n)) / rate
    lengths = [np.maximum(1, stream.gamma(n, 4.0) / 4 * mean).astype(np.int64) for mean in (prompt, output)]
    table = RequestTable(arrival, np.minimum(lengths[0], 14000), np.minimum(lengths[1], 2000))
    done = Finished(run(table, plan(name, kv_blocks), seed=seed))
    return float(((done.ttft <= ttft) & (done.tpot <= tpot)).mean())


def goodput(case: str, name: str, n: int, seed: int, kv_blocks: int | None = None) -> float:
    """The highest rate with 90 % within the limits, by bisection within 3 %; 0 where not even 0.1/s is kept."""
    low, high = 0.1, 0.2
    if attained(case, name, low, n, seed, kv_blocks) < 0.9:
        return 0.0
    while attained(case, name, high, n, seed, kv_blocks) >= 0.9:
        low, high = high, high * 2
    while high / low > 1.03:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if attained(case, name, middle, n, seed, kv_blocks) >= 0.9 else (low, middle)
    return low


def main() -> None:
    """A table over KV capacities."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two seeds, a third of the requests")
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--kv-blocks", type=int, nargs="+", default=[0, 6000, 2000], help="0: what fits")
    args = parser.parse_args()
    if args.quick:
        args.requests, args.seeds = args.requests // 3, 2
    print(f"{'case':26}{'KV blocks':>10}" + "".join(f"{name:>16}" for name in PLANS) + "   (requests/s)")
    for case in CASES:
        for blocks in args.kv_blocks:
            cells = ""
            for name in PLANS:
                rates = [goodput(case, name, args.requests, seed, blocks or None) for seed in range(args.seeds)]
                cells += f"{np.mean(rates):9.2f} ±{np.std(rates):5.2f}"
            print(f"{case:26}{blocks or 'all':>10}{cells}", flush=True)


if __name__ == "__main__":
    main()
