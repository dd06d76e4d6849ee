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
from servecast.sim.report import build_report
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
    return np.minimum(np.ceil(drawn * (mean / drawn.mean())), LONGEST).astype(np.int64)


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


def figures(result: Run, mask: np.ndarray | None = None) -> dict[str, float]:
    """Seconds: prefill is from arrival to the first token, decode a token after it, loss what preemption cost.

    mask : of the finished requests, by row of the trace.
    """
    done = Finished(result)
    mine = np.ones(len(done), bool) if mask is None else mask[done.rows]
    return {
        "prefill": done.ttft[mine].mean(), "prefill_p99": np.percentile(done.ttft[mine], 99),
        "decode": done.tpot[mine].mean(), "decode_p99": np.percentile(done.tpot[mine], 99),
        "e2e": done.e2el[mine].mean(), "e2e_p99": np.percentile(done.e2el[mine], 99),
        "loss": done.component("preemption")[mine].mean(),
    }  # fmt: skip


SYSTEMS: dict[str, tuple[Any, Any]] = {
    "round robin": ("round_robin", None), "INFaaS++": ("infaas", None), "Llumnix": ("llumnix", "llumnix"),
}  # fmt: skip
# Requests/s from a third of saturation to just below it, found with these step times; the paper's are its hardware's.
RATES = {"S-S": (20, 60, 64), "M-M": (5, 14, 15), "L-L": (1.3, 3.5, 3.7, 3.9), "S-L": (1.5, 4.5), "L-S": (10, 26, 27)}
KV_SWEEP = (594, 792, 1056)  # blocks


def compare(mix: str, rate: float, n: int, seeds: int, blocks: int = BLOCKS) -> dict[str, dict[str, float]]:
    """Mean figures of each system over the seeds."""
    table: dict[str, dict[str, float]] = {}
    for name, (router, rebalancer) in SYSTEMS.items():
        rows = [
            figures(run(workload(mix, rate, n, seed), plan(router, rebalancer, blocks), seed=seed))
            for seed in range(seeds)
        ]
        table[name] = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    return table


def mixes(args: argparse.Namespace) -> None:
    """Every mix over its rates; the capacity is swept at the last rate of L-L."""
    print("mix  req/s  blocks  " + "".join(f"{name + ' P99 prefill':>24}" for name in SYSTEMS) + "   ratio  loss saved")
    for mix in args.mix or RATES:
        for rate in args.rates or RATES[mix]:
            for blocks in KV_SWEEP if args.sweep else (BLOCKS,):
                table = compare(mix, rate, args.requests, args.seeds, blocks)
                base, ours = table["INFaaS++"], table["Llumnix"]
                cells = "".join(f"{row['prefill_p99']:22.2f} s" for row in table.values())
                ratio = base["prefill_p99"] / ours["prefill_p99"]
                saved = 1 - ours["loss"] / base["loss"] if base["loss"] else 0.0
                print(f"{mix}  {rate:5g}  {blocks:6}  {cells}  {ratio:6.2f}  {saved:9.1%}", flush=True)


def priorities(args: argparse.Namespace) -> None:
    """S-S with bursts, a tenth of the requests of high priority: with headroom and queue order, and without."""
    rate, headroom = 44.0, {"name": "llumnix", "high_priority": -1}
    print("\nCV   high: mean E2E without / with priorities     others: mean E2E with / without")
    for cv in (2, 4, 6, 8):
        gain, cost = [], []
        for seed in range(args.seeds):
            table = workload("S-S", rate, args.requests, seed, cv, high=0.1)
            assert table.priority is not None
            high = table.priority < 0
            with_ = run(table, plan(headroom, headroom, pool={"queue": "priority"}), seed=seed)
            without = run(table, plan("llumnix", "llumnix"), seed=seed)
            gain.append(figures(without, high)["e2e"] / figures(with_, high)["e2e"])
            cost.append(figures(with_, ~high)["e2e"] / figures(without, ~high)["e2e"])
        print(
            f"{cv}    {np.mean(gain):6.2f} ±{np.std(gain):.2f}    {np.mean(cost):6.3f} ±{np.std(cost):.3f}", flush=True
        )


def scaling(args: argparse.Namespace) -> None:
    """L-L with autoscaling: replica hours and P99 prefill of INFaaS++ and Llumnix with the same scaler."""
    print("\nreq/s  system      replica hours   P99 prefill")
    for rate in (2.0, 2.5, 3.0):
        for name, (router, rebalancer) in list(SYSTEMS.items())[1:]:
            hours, tail = [], []
            for seed in range(args.seeds):
                spec = {"pool": "llumnix", "policy": "llumnix", "max_replicas": 16, "start_up": 15.0, "period": 1.0}
                result = run(
                    workload("L-L", rate, args.requests, seed), plan(router, rebalancer, replicas=8, scaling=[spec]),
                    seed=seed,
                )  # fmt: skip
                pools = build_report(result)["simulation"]["cluster"]["pools"]
                hours.append(pools["llumnix"]["replica_hours"])
                tail.append(figures(result)["prefill_p99"])
            print(f"{rate:5g}  {name:10}  {np.mean(hours):13.2f}  {np.mean(tail):10.2f} s", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("mixes", "priorities", "scaling"))
    parser.add_argument("--mix", nargs="+", choices=sorted(RATES))
    parser.add_argument("--rates", type=float, nargs="+")
    parser.add_argument("--sweep", action="store_true", help="over KV capacities too")
    parser.add_argument("--requests", type=int, default=10000)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    for study in (mixes, priorities, scaling):
        if args.only in (None, study.__name__):
            study(args)


if __name__ == "__main__":
    main()
