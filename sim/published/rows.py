"""Published closed-loop measurements, one row each, and the plan and requests that replay a row.

The format is aiconfigurator's table of measured deployments: model, lengths, concurrency, parallelism by role, and the
mean TTFT and TPOT. What a table leaves out (lengths' spread, number of requests, engine flags) follows from who
measured, a `Protocol`; each says where that is published. A row that no protocol or plan fits is left out for a reason
that depends on its shape alone.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError, nearest_name
from ...traces.columns import Floats
from ...traces.streams import Stream
from ...traces.table import RequestTable, Source


@dataclass(frozen=True)
class Workers:
    """Equal workers of one role. Sizes are per worker."""

    number: int = 1
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    expert_parallel_size: int = 1
    expert_tensor_parallel_size: int = 1


@dataclass(frozen=True)
class BenchRow:
    """One measurement. users : requests kept in flight. decode : where decodes have workers of their own.

    weights : weight format ("bf16", "fp8", "fp8_block", "fp4"). ttft, tpot : measured means in seconds.
    """

    id: str
    engine: str
    version: str
    model: str
    weights: str
    isl: int
    osl: int
    users: int
    workers: Workers
    decode: Workers | None
    origin: str
    ttft: float
    tpot: float


def read_rows(path: Path) -> list[BenchRow]:
    """The usable rows of a table (CSV, plain or gzip): those without a reason in the column `exclude`.

    Raises InputError for a table without the columns, or with a cell that is no number where one belongs.
    """
    if not path.is_file():
        raise InputError(str(path), "no such file", "a table of measurements")
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        for name in ("id", "backend", "model_path", "isl", "osl", "concurrency", "silicon_ttft_ms", "silicon_tpot_ms"):
            if name not in (reader.fieldnames or ()):
                near = nearest_name(name, reader.fieldnames or ())
                raise InputError(str(path), f"no column {name!r}", "a table of measured deployments", near)
        return [_row(_Cells(cells, f"{path}:{n}")) for n, cells in enumerate(reader, 2) if not cells.get("exclude")]


class _Cells:
    """The cells of a row, with errors that name row and column."""

    def __init__(self, cells: Mapping[str, str], where: str) -> None:
        self.cells, self.where = cells, where

    def text(self, name: str) -> str:
        return (self.cells.get(name) or "").strip()

    def number(self, name: str, default: float | None = None) -> float:
        text = self.text(name)
        try:
            value = default if default is not None and not text else float(text)
        except ValueError:
            value = float("nan")
        if value is None or not isfinite(value) or value < 0:
            raise InputError(f"{self.where}: {name}", repr(text), "a number, not negative")
        return value

    def count(self, name: str) -> int:
        return max(1, int(self.number(name, 1.0)))


def _row(cells: _Cells) -> BenchRow:
    apart = cells.text("mode") == "disagg"
    weights = cells.text("moe_quant_mode") or cells.text("gemm_quant_mode") or cells.text("precision") or "bf16"
    return BenchRow(
        id=cells.text("id"),
        engine=cells.text("backend"),
        version=cells.text("backend_version"),
        model=cells.text("model_path"),
        weights="fp4" if "fp4" in weights else weights,
        isl=cells.count("isl"),
        osl=cells.count("osl"),
        users=cells.count("concurrency"),
        workers=_workers(cells, "prefill_" if apart else ""),
        decode=_workers(cells, "decode_") if apart else None,
        origin=cells.text("silicon_data_source"),
        ttft=cells.number("silicon_ttft_ms") / 1e3,
        tpot=cells.number("silicon_tpot_ms") / 1e3,
    )


def _workers(cells: _Cells, role: str) -> Workers:
    number = cells.count(f"{role}num_workers") if role else 1
    sizes = ("tp_size", "pp_size", "attention_dp_size", "moe_ep_size", "moe_tp_size")
    return Workers(number, *(cells.count(role + size) for size in sizes))


# -- who measured ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Protocol:
    """How a client measured, and how it started the engines.

    source : where that is published. requests : a user. shortest : lengths are drawn evenly between this share of the
    nominal one and itself. flags : keys of a pool.
    """

    name: str
    source: str
    requests: int
    shortest: float
    flags: Callable[[BenchRow], dict[str, Any]]


def _generator_flags(row: BenchRow) -> dict[str, Any]:
    """aiconfigurator's `generator/rule_plugin/{vllm,trtllm,sglang}.rule`: a prompt and a batch of decodes share the
    token budget, prefixes are not cached. SGLang cuts no prompts (a chunked prefill size of -1) and keeps its default
    of 16,384 tokens. FP8 checkpoints for TensorRT-LLM are ModelOpt's, which store the KV cache in FP8 as well."""
    length = row.isl + row.osl
    budget = {"max_num_batched_tokens": row.isl + 1500 + row.users, "max_num_seqs": max(512, row.users)}
    if row.engine == "sglang":
        kept = {"name": "sglang_retract", "max_new_tokens": row.osl}
        return {"max_num_batched_tokens": 16384, "max_model_len": length + 1500, "kv": kept}
    if row.engine == "trtllm":
        kept = {"name": "no_evict", "max_new_tokens": row.osl}
        longest = min(length + 1500, budget["max_num_batched_tokens"])
        kv_cache_dtype = "fp8" if row.weights == "fp8" else "auto"
        return {**budget, "max_model_len": longest, "kv": kept, "kv_cache_dtype": kv_cache_dtype}
    return budget


def _inferencemax_flags(row: BenchRow) -> dict[str, Any]:
    """InferenceMAX's `benchmarks/*_h100_*.sh` of October 2025 to March 2026, prefixes not cached."""
    budget = 8192 if row.engine == "vllm" else 10240
    return {"max_num_seqs": row.users, "max_num_batched_tokens": budget, "max_model_len": 10240}


GENAI_PERF = Protocol(
    "genai-perf", "ai-dynamo/aiconfigurator eval/benchmarks/genai_perf_runner.py", 10, 1.0, _generator_flags
)
INFERENCEMAX = Protocol(
    "inferencemax", "SemiAnalysisAI/InferenceX benchmarks/benchmark_lib.sh", 10, 0.8, _inferencemax_flags
)


# Seconds for each token of a prompt from the client to the engine: HTTP, chat template, tokenising. TTFT counts them.
# One value for all engines; fitted, like their host constants, on the half of the rows that is not reported.
FRONT_END = 5e-6


def protocol_of(row: BenchRow) -> Protocol:
    """Who measured: InferenceMAX publishes its results by day or as a dump; the others are aiconfigurator's own."""
    dated = row.origin.startswith("source_file=20") or row.origin.startswith("db-dump")
    return INFERENCEMAX if dated else GENAI_PERF


# -- a row as a plan and a trace -----------------------------------------------------------------------------------

MODELS = {"llama-3.1-8b-instruct": "llama-3.1-8b", "qwen3-235b-a22b-fp8": "qwen3-235b-a22b"}


def engine_of(row: BenchRow) -> str:
    """The preset that stands for the engine's version; rows of vLLM without one are of October 2025."""
    if row.engine == "vllm":
        return "vllm-0.12" if row.version == "0.12.0" else "vllm-0.11-async"
    return {"trtllm": "trtllm-1.0", "sglang": "sglang-0.5"}[row.engine]


def left_out(row: BenchRow) -> str | None:
    """Why a row cannot be replayed, by its shape; None where it can."""
    if "gtl_job_id" in row.origin and row.workers.tensor_parallel_size < 8:
        return "measured on 8 GPUs with fewer in a worker: how many workers shared the concurrency is not recorded"
    for workers in (row.workers, row.decode):
        if workers and workers.expert_parallel_size > 1 and workers.expert_tensor_parallel_size > 1:
            return "experts cut by tensor and by expert parallelism at once"
    return None


def plan_of(row: BenchRow, workers: Workers, hardware: str, cost: str) -> dict[str, Any]:
    """The plan of one role's workers, as in a YAML file."""
    pool: dict[str, Any] = {
        "name": "bench",
        "hardware": hardware,
        "replicas": workers.number,
        "tensor_parallel_size": workers.tensor_parallel_size,
        "pipeline_parallel_size": workers.pipeline_parallel_size,
        "data_parallel_size": workers.data_parallel_size,
        "enable_expert_parallel": workers.expert_parallel_size > 1,
        "enable_chunked_prefill": row.engine == "vllm",
        "enable_prefix_caching": False,
        **protocol_of(row).flags(row),
    }
    if row.weights.startswith("fp8"):  # 4-bit checkpoints say so in the model's card
        pool["quantization"] = "fp8"
    short = row.model.rsplit("/", 1)[-1].lower()
    return {"model": MODELS.get(short, short), "engine": engine_of(row), "cost": cost, "pools": [pool]}


def requests_of(row: BenchRow) -> tuple[RequestTable, Floats]:
    """The requests of a measurement, and the seconds from a user's last answer until each reaches the engine. The first
    of all users reach it at once."""
    number = protocol_of(row).requests * row.users
    prompts, answers = (_lengths(row, name, number, size) for name, size in (("isl", row.isl), ("osl", row.osl)))
    think = (prompts * FRONT_END).astype(np.float64)
    think[: row.users] = 0.0
    return RequestTable(np.zeros(number), prompts, answers, source=Source(name=row.id)), think


def _lengths(row: BenchRow, name: str, number: int, nominal: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    least = max(1, int(protocol_of(row).shortest * nominal))
    return least + Stream(0, f"{row.id}/{name}").integers(number, nominal - least + 1)


def by_engine(rows: list[BenchRow]) -> Iterator[tuple[str, list[BenchRow]]]:
    """Rows grouped by engine, then all of them."""
    for engine in sorted({row.engine for row in rows}):
        yield engine, [row for row in rows if row.engine == engine]
    yield "all", rows
