"""`make studies`: Llumnix (OSDI'24) against INFaaS++ and round robin, on its set-up and with its lengths.

16 x LLaMA-7B on A10, 792 KV blocks of 16 tokens each, 12,288 batched tokens, vLLM 0.1.7 (whose host times are an
assumption, `vllm-0.1.7.yaml`). Step times are the roofline's, estimated; the mixes then saturate near the authors'
rates. Loads are shares of what the cluster carries of the very draw: a few answers of thousands of tokens, which run
for minutes, move that by a fifth between draws.

Why migration helps: near saturation free memory is there but scattered, so that no replica can take a long prompt,
which waits at the head of its queue, and a replica runs full while others have room. It gathers free memory where the
head of a queue needs it and spreads what grows; at low load there is nothing to gather. Why priorities cost little: the
few replicas that hold high-priority requests are kept at 1,600 tokens, and the others take what they gave away.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from servecast.configs.plan import Plan, plan_from
from servecast.sim.report.metrics import Finished
from servecast.sim.report.report import build_report
from servecast.sim.run import Run, run
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable

HERE = Path(__file__).parent
ALPHA = {128: 2.0, 256: 1.5, 512: 1.15}  # exponent of the power law by its mean
MEANS = {"S": 128, "M": 256, "L": 512}
LONGEST = 6144
BLOCKS = 792
# Seconds by which what the dispatcher sees is old. The authors' manager knows of an instance what it reported with its
# last iteration (`vllm/engine/llm_engine_manager.py`), one or two of 50 ms ago, and adds nothing until the next report.
VIEW_AGE = 0.1


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


def keys_of(
    router: Any, rebalancer: Any = None, blocks: int = BLOCKS, replicas: int = 16, **keys: Any
) -> dict[str, Any]:  # fmt: skip
    """The plan file of the paper's cluster. LLaMA's position limit is lifted, as the authors' lengths need it."""
    pool = {
        "name": "llumnix", "hardware": "a10", "replicas": replicas, "num_gpu_blocks_override": blocks,
        "max_model_len": 2 * LONGEST, "max_num_batched_tokens": 2 * LONGEST, **keys.pop("pool", {}),
    }  # fmt: skip
    return {
        "model": str(HERE / "llama-7b-16k.json"), "engine": str(HERE / "vllm-0.1.7.yaml"), "pools": [pool],
        "router": {"view_age": VIEW_AGE, **({"name": router} if isinstance(router, str) else router)},
        "rebalancer": rebalancer, "links": {"network": {"bandwidth": 2e9}}, "topology": {"nic": "node"}, **keys,
    }  # fmt: skip


def plan(*args: Any, **keys: Any) -> Plan:
    """The paper's cluster; arguments as `keys_of`."""
    return plan_from(keys_of(*args, **keys), "llumnix")


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
MIXES = ("L-L", "L-S", "S-S", "M-M", "S-L")  # the authors' requests/s: 2.6-3.2, 10-22, 32-38, 7.4-8, 4.1-4.4
LOADS = (0.5, 0.85, 0.95, 1.0)  # of what the cluster carries of a draw: those of one mix differ by a fifth
KV_SWEEP = (792, 990)  # blocks, at the same requests/s as `SWEPT` with the first; 768 hold the longest request
SWEPT = 0.95
PRIORITY_RATE = 26.0


def carried(mix: str, n: int, seed: int) -> float:
    """Requests/s at which the cluster saturates: what it finishes when all come at once and are spread by what is the
    case, over the middle half."""
    table = workload(mix, 1e6, n, seed)
    done = Finished(run(table, plan({"name": "infaas", "view_age": 0.0}), seed=seed))
    ends = np.sort(table.arrival[done.rows] + done.e2el)
    return float(n / 2 / (ends[3 * n // 4] - ends[n // 4]))


def compare(mix: str, rates: Sequence[float], n: int, blocks: int = BLOCKS) -> dict[str, dict[str, np.ndarray]]:
    """Figures of each system, one for each rate; the number of a rate is its seed."""
    table: dict[str, dict[str, np.ndarray]] = {}
    for name, (router, rebalancer) in SYSTEMS.items():
        rows = [
            figures(run(workload(mix, rate, n, seed), plan(router, rebalancer, blocks), seed=seed))
            for seed, rate in enumerate(rates)
        ]
        table[name] = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    return table


def mixes(args: argparse.Namespace) -> None:
    """Every mix over its loads. The ratio is that of the mean P99s; beside it stand those of the draws."""
    for mix in args.mix or MIXES[: 2 if args.quick else None]:
        carries = [carried(mix, args.requests, seed) for seed in range(args.seeds)]
        print(f"\n{mix} saturates at {', '.join(f'{rate:.3g}' for rate in carries)} requests/s")
        print(
            "load  req/s  blocks  "
            + "".join(f"{name + ' P99 prefill':>24}" for name in SYSTEMS)
            + "   ratio  loss saved"
        )
        for load in args.loads or LOADS:
            for blocks in KV_SWEEP if load == SWEPT and not args.quick else (BLOCKS,):
                rates = [load * rate for rate in carries]
                table = compare(mix, rates, args.requests, blocks)
                tails = {name: row["prefill_p99"] for name, row in table.items()}
                cells = "".join(f"{tail.mean():12.2f} ± {tail.std():6.2f} s " for tail in tails.values())
                ratio = tails["INFaaS++"].mean() / tails["Llumnix"].mean()
                each = " ".join(f"{r:.2g}" for r in tails["INFaaS++"] / tails["Llumnix"])
                base, ours = (table[name]["loss"].mean() for name in ("INFaaS++", "Llumnix"))
                saved = 1 - ours / base if base else 0.0
                print(
                    f"{load:4g}  {np.mean(rates):5.3g}  {blocks:6}  {cells}  {ratio:6.2f}  {saved:9.1%}  ({each})",
                    flush=True,
                )


def priorities(args: argparse.Namespace) -> None:
    """S-S with bursts, a tenth of the requests of high priority: with headroom and queue order, and without."""
    print(f"\nS-S at {PRIORITY_RATE:g} req/s, blocks {BLOCKS}")
    print("CV   high: mean E2E, decode without / with priorities     others: mean E2E with / without")
    headroom = {"name": "llumnix", "high_priority": -1}
    for cv in (2, 6) if args.quick else (2, 4, 6, 8):
        rows = []
        for seed in range(args.seeds):
            table = workload("S-S", PRIORITY_RATE, args.requests, seed, cv, high=0.1)
            assert table.priority is not None
            high = table.priority < 0
            with_ = run(table, plan(headroom, headroom, pool={"queue": "priority"}), seed=seed)
            without = run(table, plan("llumnix", "llumnix"), seed=seed)
            before, after = figures(without, high), figures(with_, high)
            rest = figures(with_, ~high)["e2e"] / figures(without, ~high)["e2e"]
            rows.append((before["e2e"] / after["e2e"], before["decode"] / after["decode"], rest))
        cells = "    ".join(f"{m:6.3f} ±{s:.3f}" for m, s in zip(np.mean(rows, 0), np.std(rows, 0), strict=True))
        print(f"{cv}    {cells}", flush=True)


def scaling(args: argparse.Namespace) -> None:
    """L-L with autoscaling over thresholds: replica hours and P99 prefill of INFaaS++ and of Llumnix, same scaler; and
    what Llumnix saves where both have the same P99."""
    print(f"\nL-L, blocks {BLOCKS}\nreq/s  system     threshold  replica hours    P99 prefill")
    for rate in (2.0,) if args.quick else (2.0, 2.5):
        curves = {}
        for name, (router, rebalancer) in list(SYSTEMS.items())[1:]:
            points = []
            for low in (5.0, 45.0) if args.quick else (5.0, 15.0, 25.0, 45.0, 65.0):
                rows = [
                    _scaled(workload("L-L", rate, args.requests, seed), router, rebalancer, low, seed)
                    for seed in range(args.seeds)
                ]
                hours, tail = np.mean(rows, 0)
                points.append((float(tail), float(hours)))
                print(
                    f"{rate:5g}  {name:10} {low:8g}  {hours:7.2f} ±{np.std(rows, 0)[0]:.2f}  {tail:8.2f}"
                    f" ±{np.std(rows, 0)[1]:.2f} s", flush=True,
                )  # fmt: skip
            curves[name] = np.array(sorted(points)).T
        theirs, ours = curves.values()
        for tail, hours in theirs.T:
            cheapest = min(ours[1][ours[0] <= tail], default=np.nan)
            print(f"{rate:5g}  at a P99 of {tail:.2f} s or less Llumnix needs {1 - cheapest / hours:.1%} fewer hours")


def _scaled(table: RequestTable, router: Any, rebalancer: Any, low: float, seed: int) -> tuple[float, float]:
    """Replica hours and P99 prefill."""
    policy = {"name": "llumnix", "low": low, "high": low + 50}
    spec = {"pool": "llumnix", "policy": policy, "max_replicas": 16, "start_up": 15.0, "period": 1.0}
    result = run(table, plan(router, rebalancer, replicas=8, scaling=[spec]), seed=seed)
    pools = build_report(result)["simulation"]["cluster"]["pools"]
    return pools["llumnix"]["replica_hours"], figures(result)["prefill_p99"]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("mixes", "priorities", "scaling"))
    parser.add_argument("--mix", nargs="+", choices=MIXES)
    parser.add_argument("--loads", type=float, nargs="+", help="shares of what the cluster carries")
    parser.add_argument("--quick", action="store_true", help="two seeds, fewer requests and cases")
    parser.add_argument("--requests", type=int, help="the authors' 10,000")
    parser.add_argument("--seeds", type=int)
    args = parser.parse_args()
    args.requests = args.requests or (1500 if args.quick else 10_000)
    args.seeds = args.seeds or (2 if args.quick else 5)
    for study in (mixes, priorities, scaling):
        if args.only in (None, study.__name__):
            study(args)


if __name__ == "__main__":
    main()
