"""Recorded vLLM runs as folders: `run.json`, `real_requests.csv`, and where there are, `model.json`,
`prefix_blocks.jsonl.gz` and the layer profile of the GPU.

The settings become a plan: what `run.json` does not say is the engine preset's default.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from ...configs.catalog import names
from ...configs.engine import find_engine
from ...configs.plan import Plan, plan_from
from ...configs.strict import read_mapping
from ...costmodels.readers import llmservingsim
from ...errors import InputError, nearest_name
from ...traces.columns import PrefixBlocks
from ...traces.files import open_text
from .run import RecordedRun, read_times, timed

REQUESTS = "real_requests.csv"
BLOCK = 16  # tokens of a prefix block in these folders
# Engine arguments that a plan takes over under the same name.
_ARGUMENTS = (
    "tensor_parallel_size", "data_parallel_size", "pipeline_parallel_size", "enable_expert_parallel", "max_num_seqs",
    "max_num_batched_tokens", "max_model_len", "kv_cache_dtype", "enable_chunked_prefill", "enable_prefix_caching",
    "gpu_memory_utilization", "block_size",
)  # fmt: skip
_CACHE = ("gpu_memory_utilization", "block_size", "enable_prefix_caching")


def fits(path: Path) -> bool:
    """Whether a folder is such a run."""
    return (path / "run.json").is_file() and (path / REQUESTS).is_file()


def read(path: Path, plan: Plan | None = None) -> RecordedRun:
    """The run in a folder; `plan` replaces its settings."""
    record = read_mapping(path / "run.json")
    run = record.get("run", record)
    ids, columns = read_times(path / REQUESTS, "id")
    blocks = _blocks(path, ids)
    table, seconds = timed(path.name, ids, columns, blocks)
    cache = run.get("kv_cache") or {}
    notes = () if blocks else ("no prefix blocks: prompts are taken to share nothing",)
    return RecordedRun(
        path.name, table, plan or _plan(path, run, record.get("notes") or {}), seconds,
        kv_blocks=cache.get("num_gpu_blocks"), notes=notes,
    )  # fmt: skip


def _plan(path: Path, run: dict[str, Any], notes: dict[str, Any]) -> Plan:
    where = f"{path}/run.json"
    arguments, cache = run.get("engine_kwargs"), run.get("kv_cache") or {}
    if not isinstance(arguments, dict):
        raise InputError(f"{where}: run.engine_kwargs", "missing", "the engine's arguments")
    profile = path / "profile" if llmservingsim.fits(path) else None
    pool: dict[str, Any] = {"name": "recorded", "hardware": _hardware(run, notes, profile, where)}
    pool |= {key: cache[key] for key in _CACHE if cache.get(key) is not None}
    pool |= {key: arguments[key] for key in _ARGUMENTS if arguments.get(key) is not None}
    pool["num_gpu_blocks_override"] = cache.get("num_gpu_blocks")
    if profile:
        pool["cost"] = str(profile.resolve())
    model = path / "model.json"
    plan = {
        "model": str(model.resolve()) if model.is_file() else str(arguments.get("model", "")),
        "engine": engine_preset("vllm", str(run.get("vllm_version", "")), where),
        "pools": [pool],
    }
    try:
        return dataclasses.replace(plan_from(plan, path.name), folder=str(path))
    except InputError as error:
        raise error.at(f"{where}:") from None


def engine_preset(engine: str, version: str, where: str) -> str:
    """The preset of an engine's newest version that is not newer than `version`, else its oldest."""
    presets = sorted((_numbers(name), name) for name in names("engines") if name.startswith(f"{engine}-"))
    if not _numbers(version):
        raise InputError(f"{where}: vllm_version", f"{version!r}", "a version such as 0.19.0")
    older = [name for numbers, name in presets if numbers <= _numbers(version)[: len(numbers)]]
    return find_engine(older[-1] if older else presets[0][1]).name


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


def _hardware(run: dict[str, Any], notes: dict[str, Any], profile: Path | None, where: str) -> str:
    """The card of the GPU: as the profile calls it, or the longest card's name that its name contains."""
    measured = llmservingsim.hardware(profile) if profile else None
    if measured:
        return measured
    told = str((run.get("hardware") or {}).get("device_name") or notes.get("gpu") or "")
    plain = re.sub(r"[^a-z0-9]", "", told.lower())
    inside = [card for card in names("hardware") if card.replace("-", "") in plain]
    if not inside:
        expected = f"a GPU among {', '.join(names('hardware'))}, or --plan"
        raise InputError(f"{where}: hardware", repr(told), expected, nearest_name(told, names("hardware")))
    return max(inside, key=len)


def _blocks(path: Path, ids: list[str]) -> PrefixBlocks | None:
    file = path / "prefix_blocks.jsonl.gz"
    if not file.is_file():
        return None
    with open_text(file) as text:
        try:
            rows = [json.loads(line)["block_ids"] for line in text if line.strip()]
            blocks = PrefixBlocks.of(BLOCK, "floor", rows)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(str(file), f"cannot be read ({error!r})", "a JSON object with block_ids a line") from None
    if len(blocks) != len(ids):
        raise InputError(str(file), f"{len(blocks)} lines", f"{len(ids)}, one a request of {REQUESTS}")
    return blocks
