"""The detailed result of `vllm bench serve` (`--save-result --save-detailed`): one JSON object with a list a request.

Keys used: `input_lens`, `output_lens`, `ttfts`, `itls` (seconds), `errors`, `start_times` (seconds of one clock),
`request_rate`, `max_concurrency`, `model_id`. Source: vllm-project/vllm `vllm/benchmarks/serve.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...configs.plan import Plan
from ...configs.strict import read_mapping
from ...errors import InputError
from ...traces.columns import Floats
from ...traces.table import RequestTable, Source
from .run import RecordedRun, metrics

LISTS = ("input_lens", "output_lens", "ttfts", "itls")


def fits(path: Path) -> bool:
    """Whether a file is such a result, by its name; `read` says what is wrong inside."""
    return path.suffix == ".json"


def read(path: Path, plan: Plan) -> RecordedRun:
    """The run that a benchmark client saw. The engine's queue is not visible to it.

    Arrivals are the `start_times`; where an older client has none, all requests start at 0 if it sent them at once, or
    `max_concurrency` clients wait for their answers. Requests that failed are left out.

    Raises InputError where lists are missing or of unequal length, or where nobody knows when requests arrived.
    """
    data = read_mapping(path)
    for key in LISTS:
        if not isinstance(data.get(key), list):
            expected = "a list with an entry a request: save the benchmark with --save-result --save-detailed"
            raise InputError(f"{path}: {key}", "missing", expected)
        if len(data[key]) != len(data["input_lens"]):
            raise InputError(f"{path}: {key}", f"{len(data[key])} entries", f"{len(data['input_lens'])}, as input_lens")
    try:
        prompts, outputs = np.array(data["input_lens"], np.int64), np.array(data["output_lens"], np.int64)
        ttft = np.array(data["ttfts"], float)
        gaps = [np.array(row, float) for row in data["itls"]]
    except (TypeError, ValueError) as error:
        raise InputError(str(path), f"cannot be read ({error})", "numbers in the lists of requests") from None
    arrival, users = _arrivals(data, len(prompts), path)
    errors = data.get("errors") or [""] * len(prompts)
    good = np.array([not error for error in errors]) & (outputs > 0)
    if not good.any():
        raise InputError(str(path), "every request failed", "at least one that was answered")
    order = np.flatnonzero(good)[np.argsort(arrival[good], kind="stable")]
    arrival, outputs, first = arrival[order], outputs[order], ttft[order]
    last = first + np.array([gaps[i].sum() for i in order.tolist()])
    failed = len(good) - len(order)
    table = RequestTable(
        arrival - arrival[0], prompts[order], outputs, source=Source(path.name, "vllm bench serve", len(good), failed)
    )
    unknown = np.full(len(order), np.nan)
    return RecordedRun(
        path.stem, table, plan, metrics(np.zeros(len(order)), unknown, first, last, outputs.astype(float)),
        gaps=np.concatenate([gaps[i] for i in order.tolist()]), users=users,
        notes=(f"{failed} failed requests left out",) if failed else (),
    )  # fmt: skip


def _arrivals(data: dict[str, Any], requests: int, path: Path) -> tuple[Floats, int]:
    """Seconds, and clients of a closed loop."""
    times = data.get("start_times")
    if isinstance(times, list) and len(times) == requests:
        return np.array(times, float) - min(times), 0
    if str(data.get("request_rate")) != "inf":
        expected = "start_times, which newer clients write (or request_rate inf)"
        raise InputError(f"{path}: start_times", "missing, so nobody knows when the requests arrived", expected)
    return np.zeros(requests), int(data.get("max_concurrency") or 0)
