"""What a plan means in vLLM's flags, and why some plans have none.

Every budget is written out as it was simulated, defaults included, so that another default of another version changes
nothing unseen. Flags: `vllm serve --help` of vLLM 0.12 to 0.19; booleans have a `--no-` form.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...configs.engine import policy_name
from ...configs.plan import Plan, Pool
from ...errors import InputError
from ...sim.deploy import deploy
from ...sim.deployment import Deployment
from ...sim.report.report import package_version

MARGIN = 0.03  # of the KV blocks: the memory arithmetic was 1.2 % off where an engine reported them (docs/accuracy.md)

_SIMULATION_ONLY = {
    "name", "hardware", "replicas", "model", "engine", "cost", "serves", "price_per_hour", "fabric", "gpu_clock_mhz",
}  # fmt: skip
_FLAGS = {
    "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "enable_expert_parallel", "max_num_seqs",
    "max_num_batched_tokens", "max_model_len", "long_prefill_token_threshold", "enable_chunked_prefill",
    "enable_prefix_caching", "async_scheduling", "block_size", "gpu_memory_utilization", "kv_cache_dtype",
    "num_gpu_blocks_override", "quantization", "role", "queue",
}  # fmt: skip
_CONNECTOR = '{"kv_connector":"NixlConnector","kv_role":"kv_both"}'


@dataclass(frozen=True)
class Worker:
    """One pool, ready to be written.

    model : what vLLM loads. flags : of `vllm serve`, without the model. gpus : of one replica. nodes : it stands on.
    """

    name: str
    role: str
    replicas: int
    model: str
    flags: tuple[str, ...]
    gpus: int
    gpus_per_node: int
    deployment: Deployment

    @property
    def nodes(self) -> int:
        """Nodes of one replica."""
        return -(-self.gpus // self.gpus_per_node)


def workers(plan: Plan, model_id: str | None = None) -> list[Worker]:
    """Every pool of a plan.

    model_id : the repository or folder that vLLM loads, where the plan names a card of servecast.

    Raises `InputError` for a plan that would not start, or of which vLLM has no equivalent.
    """
    return [_worker(plan, d, model_id) for d in deploy(plan)]


def _worker(plan: Plan, d: Deployment, model_id: str | None) -> Worker:
    if not d.preset.name.startswith("vllm-"):
        raise InputError(f"{d.where}.engine", d.preset.name, "a preset of vLLM: others have other flags")
    _check_pool(d)
    _check_memory(d)
    pool = d.pool
    gpus = pool.tensor_parallel_size * pool.pipeline_parallel_size * pool.data_parallel_size
    model = _model(plan, pool, model_id)
    return Worker(pool.name, pool.role, pool.replicas, model, _flags(d), gpus, d.hardware.gpus_per_node, d)


def _check_pool(d: Deployment) -> None:
    """Refuse what the flags cannot say."""
    plain = Pool(name=d.pool.name, hardware=d.pool.hardware)
    for field in dataclasses.fields(Pool):
        value = getattr(d.pool, field.name)
        if value == getattr(plain, field.name) or field.name in _SIMULATION_ONLY | _FLAGS:
            continue
        known = policy_name(getattr(d.preset, field.name), "") if field.name in ("batch", "kv") else None
        if known is None or policy_name(value, "") != known:
            expected = "a plan without it: vLLM has no flag for it that servecast knows"
            raise InputError(f"{d.where}.{field.name}", str(value), expected)
    if not isinstance(d.pool.quantization, str | None):
        raise InputError(f"{d.where}.quantization", str(d.pool.quantization), "a name of vLLM's --quantization")
    queue = policy_name(d.pool.queue or d.preset.queue, "")[0]
    if queue not in ("fcfs", "priority"):
        raise InputError(f"{d.where}.queue", queue, "fcfs or priority, which vLLM has")


def _check_memory(d: Deployment) -> None:
    """Refuse what may fail at start: `deploy` checked the arithmetic, this adds a margin and checks a given number."""
    usable = int(d.capacity.num_blocks * (1 - MARGIN)) - d.preset.reserved_blocks
    given = d.pool.num_gpu_blocks_override
    if given is not None and given > d.capacity.num_blocks:
        found = f"{given} KV blocks, and the memory arithmetic has room for {d.capacity.num_blocks}"
        raise InputError(f"{d.where}.num_gpu_blocks_override", found, "as many as fit")
    need = d.limits.blocks(d.limits.max_model_len)
    if need > usable:
        found = f"{d.limits.max_model_len} tokens need {need} KV blocks, and {usable} fit with a margin of {MARGIN:.0%}"
        fits = max(0, usable - d.limits.fixed_blocks) * d.limits.block_size
        raise InputError(f"{d.where}.max_model_len", found, f"at most {fits}")


def _model(plan: Plan, pool: Pool, model_id: str | None) -> str:
    name = pool.model or plan.model
    if model_id:
        return model_id
    if Path(name).suffix == ".json":
        raise InputError("--model-id", f"missing, and the plan has the config {name}", "a repository or folder to load")
    if "/" not in name:
        found = f"missing, and {name!r} is a card of servecast"
        raise InputError("--model-id", found, "a repository, such as org/model, or a folder")
    return name


def _flags(d: Deployment) -> tuple[str, ...]:
    pool, limits = d.pool, d.limits
    flags: list[Any] = []
    for name in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
        if getattr(pool, name) > 1:
            flags += [_flag(name), getattr(pool, name)]
    if pool.enable_expert_parallel:
        flags.append("--enable-expert-parallel")
    for name in ("max_model_len", "max_num_seqs", "max_num_batched_tokens", "block_size"):
        flags += [_flag(name), getattr(limits, name)]
    flags += ["--gpu-memory-utilization", pool.gpu_memory_utilization or d.preset.gpu_memory_utilization]
    flags += ["--kv-cache-dtype", pool.kv_cache_dtype]
    for name, value in (
        ("enable_prefix_caching", d.prefix_caching),
        ("enable_chunked_prefill", limits.enable_chunked_prefill),
    ):
        flags.append(_flag(name) if value else _flag(f"no_{name}"))
    if _version(d) >= (0, 11):
        flags.append("--async-scheduling" if d.ahead else "--no-async-scheduling")
    if limits.long_prefill_token_threshold:
        flags += ["--long-prefill-token-threshold", limits.long_prefill_token_threshold]
    if pool.quantization:
        flags += ["--quantization", pool.quantization]
    if pool.num_gpu_blocks_override:
        flags += ["--num-gpu-blocks-override", pool.num_gpu_blocks_override]
    if policy_name(pool.queue or d.preset.queue, "")[0] == "priority":
        flags += ["--scheduling-policy", "priority"]
    if pool.role != "mixed":
        flags += ["--kv-transfer-config", _CONNECTOR]
    return tuple(map(str, flags))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _version(d: Deployment) -> tuple[int, ...]:
    """Of the engine: `vllm-0.19` is (0, 19)."""
    return tuple(int(part) for part in d.preset.name.split("-")[1].split(".") if part.isdigit())


def image(worker: Worker) -> str:
    """The official container of the engine's version; the preset does not say which patch, so it is .0."""
    return f"vllm/vllm-openai:v{'.'.join(map(str, _version(worker.deployment)))}.0"


def stamp(plan: Plan, found: Sequence[Worker], exported: Sequence[str] = ()) -> list[str]:
    """Lines of a comment: what was exported by what, the memory arithmetic, and what the file does not say.

    exported : parts of the plan, by key, that the file does say.
    """
    lines = [
        f"Exported by servecast {package_version()} from the plan {plan.name} ({plan.fingerprint()}).",
        "Look at it before you apply it: images, secrets and node selectors are of your cluster.",
    ]
    for worker in found:
        d = worker.deployment
        lines.append(f"{worker.name}: simulated as {d.preset.name} on {d.hardware.name}, step times {d.cost.label}")
        lines += [f"  {line.strip()}" for line in d.capacity.lines()]
    parts = {"router": f"router {plan.router.name}", "disaggregation": "the proxy between prefill and decode"}
    parts |= {name: name for name in ("rebalancer", "admission", "scaling")}
    lines += [
        f"NOT EXPORTED: the clock of {w.name}'s GPUs; as root: nvidia-smi --lock-gpu-clocks={mhz}"
        for w in found if (mhz := w.deployment.pool.gpu_clock_mhz) is not None
    ]  # fmt: skip
    lines += [f"NOT EXPORTED: {text}" for name, text in parts.items() if getattr(plan, name) and name not in exported]
    return lines
