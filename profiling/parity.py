"""Per-request parity with Vidur: its four reference runs on its own operator tables (`make parity OUT=DIR`).

DATA holds the traces and tables of microsoft/vidur (7d475133) with a README that states the rules; every case becomes
`<case>.csv` in OUT: request_id, ttft_s, e2e_s, num_restarts. A look-up of a key that the tables do not have would mean
that a rule differs: it is counted, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..configs.plan import plan_from
from ..costmodels.base import TICKS_PER_SECOND
from ..costmodels.tablefile import read_columns
from ..costmodels.vidur import read_cost
from ..errors import InputError
from ..sim.deploy import deploy
from ..sim.run import Run, run
from ..traces.columns import Labels
from ..traces.files import replacing_text
from ..traces.table import RequestTable, Source

VLLM = {
    "engine": "vllm-0.6", "batch": {"name": "vllm_v0", "padded": True}, "max_num_batched_tokens": 4096,
    "enable_chunked_prefill": False,
}  # fmt: skip
SARATHI = {"engine": "sarathi-serve", "max_num_batched_tokens": 512}
LONGEST = 4096  # tokens of a request in these traces


@dataclass(frozen=True)
class Case:
    """A reference run. tables : the model's, in file names. trace : the case whose trace is served."""

    name: str
    model: str
    tables: str
    tensor_parallel_size: int
    engine: dict[str, Any]
    blocks: int
    trace: str


CASES = (
    Case("a", "llama-3-8b", "8b_tp1", 1, VLLM, 30_208, "a"),
    Case("b", "llama-3-8b", "8b_tp1", 1, SARATHI, 30_208, "a"),
    Case("d70", "llama-3-70b", "70b_tp4", 4, VLLM, 32_768, "d70"),
    Case("e", "llama-3-8b", "8b_tp1", 1, VLLM, 3_800, "e"),
)


def simulate(case: Case, data: Path) -> Run:
    """Run a case. Raises InputError where a file of `data` is missing or malformed."""
    pool = {
        "name": case.name, "hardware": "a100-80gb", "tensor_parallel_size": case.tensor_parallel_size,
        "num_gpu_blocks_override": case.blocks, "max_num_seqs": 128, "max_model_len": LONGEST, "block_size": 16,
        **case.engine,
    }  # fmt: skip
    plan = plan_from({"model": case.model, "engine": pool["engine"], "pools": [pool]}, case.name)
    deployment = deploy(plan)[0]
    cost = read_cost(
        deployment.model.layers,
        data / f"optable_{case.tables}_tokens.csv.gz",
        data / f"optable_{case.tables}_attn_decode.csv.gz",
        data / f"optable_{case.name}_attn_prefill_used.csv.gz",
    )
    trace = _trace(data / f"{case.trace}_trace.csv.gz")
    return run(trace, plan, deployments=[dataclasses.replace(deployment, cost=cost)])


def _trace(path: Path) -> RequestTable:
    """Vidur's trace; arrivals to the last digit, for one falls within microseconds of an iteration's end."""
    if not path.is_file():
        raise InputError(str(path), "no such file", "a trace of the reference runs")
    columns = read_columns(path.read_bytes(), str(path), ())
    names = ("arrived_at_s", "num_prefill_tokens", "num_decode_tokens", "request_id")
    for name in names:
        if name not in columns:
            raise InputError(str(path), f"no column {name!r}", "columns " + ", ".join(names))
    arrival, prompts, outputs, ids = (columns[name] for name in names)
    return RequestTable(
        arrival, prompts.astype(np.int64), outputs.astype(np.int64), Labels.of([f"{i:.0f}" for i in ids.tolist()]),
        source=Source(path.name, "vidur", len(arrival)),
    )  # fmt: skip


def write(simulated: Run, path: Path) -> None:
    """The case's CSV: a row a request in the trace's order, complete or not at all."""
    c = simulated.recorder.requests.columns()
    order = np.argsort(c["row"], kind="stable")
    ttft, e2e = ((c[end][order] - c["arrival"][order]) / TICKS_PER_SECOND for end in ("first_token", "last_token"))
    ids = simulated.table.request_id or range(len(order))
    rows = zip(ids, ttft.tolist(), e2e.tolist(), c["preemptions"][order].tolist(), strict=True)
    with replacing_text(path) as text:
        text.write("request_id,ttft_s,e2e_s,num_restarts\n")
        text.writelines(f"{name},{first:.9f},{last:.9f},{restarts}\n" for name, first, last, restarts in rows)


def iterations(simulated: Run) -> int:
    """Iterations of the engine."""
    return int(simulated.recorder.leaps[0].columns()["iterations"].sum())


def main(words: list[str] | None = None) -> int:
    """Run every case and say what a self-check needs."""
    parser = argparse.ArgumentParser(prog="python -m servecast.profiling.parity", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of the reference runs (vidur-parity)")
    parser.add_argument("out", type=Path, help="folder for a.csv, b.csv, d70.csv and e.csv")
    args = parser.parse_args(words)
    strange = 0
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        for case in CASES:
            simulated = simulate(case, args.data)
            write(simulated, args.out / f"{case.name}.csv")
            engine = simulated.engines[0]
            strange += engine.outside
            unknown = "" if not engine.outside else ", SOME WITH KEYS THAT NO TABLE HAS"
            print(
                f"{case.name:<4} {iterations(simulated):>7,} iterations{unknown}, {engine.preemptions} restarts, "
                f"{len(simulated.table):,} requests, {simulated.cpu_seconds:.2f} s"
            )
    except (InputError, OSError) as error:
        print(f"parity: {error}", file=sys.stderr)
        return 2
    return 1 if strange else 0


if __name__ == "__main__":
    sys.exit(main())
