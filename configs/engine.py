"""An engine preset: what a serving engine of a given version does unless a plan says otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from .catalog import find, read_card
from .device import HardwareCard
from .strict import check

PolicyChoice = str | dict[str, Any]  # a name, or a mapping with `name` and parameters


@dataclass(frozen=True)
class Budget:
    """Defaults of the budgets on some hardware; the first entry whose conditions hold counts.

    min_memory_gib : only on devices with at least so much memory. not_on : never on cards whose name begins so.
    """

    max_num_seqs: int
    max_num_batched_tokens: int | None = None  # None: as many as `max_model_len`, at least 2048 (vLLM v0)
    min_memory_gib: float = 0.0
    not_on: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check(self.max_num_seqs >= 1, "max_num_seqs", self.max_num_seqs, "at least 1")
        tokens = self.max_num_batched_tokens
        check(tokens is None or tokens >= 1, "max_num_batched_tokens", tokens, "at least 1")

    def covers(self, hardware: HardwareCard) -> bool:
        """Whether these are the defaults on `hardware`."""
        large = hardware.memory_bytes >= self.min_memory_gib * (1 << 30)
        return large and not hardware.name.startswith(self.not_on or ("\0",))


@dataclass(frozen=True)
class EnginePreset:
    """One engine version.

    host : seconds of host time an iteration, and a request in it; `host_source` says where they come from.
    hidden_host : the same, of what the host does while the accelerator computes, unless a plan turns
        `async_scheduling` off.
    async_scheduling : the host decides the next iteration while the accelerator computes this one.
    max_cudagraph_capture_size, prompts_in_graphs : tokens of the largest batch that runs as a captured CUDA graph, and
        whether batches with prompts may. kernel_seconds : host time to launch one operator outside a graph.
    gap : seconds that the device waits after a kernel of an iteration with prompts, and a request's part of the waits
        between iterations, on top of measured kernel times; `gap_source` says where they come from.
    reserved_blocks : KV blocks that no request ever gets.
    swap_space : GiB of host memory for swapped-out blocks, an accelerator.
    """

    name: str
    source: str
    batch: PolicyChoice
    kv: PolicyChoice
    budgets: tuple[Budget, ...]
    host_seconds: float
    host_seconds_per_sequence: float
    host_source: str
    hidden_host_seconds: float = 0.0
    hidden_host_seconds_per_sequence: float = 0.0
    max_cudagraph_capture_size: int = 0
    prompts_in_graphs: bool = True
    kernel_seconds: float = 0.0
    gap_seconds_per_kernel: float = 0.0
    gap_seconds_per_sequence: float = 0.0
    gap_source: str = ""
    queue: PolicyChoice = "fcfs"
    block_size: int = 16
    gpu_memory_utilization: float = 0.9
    enable_chunked_prefill: bool = True
    enable_prefix_caching: bool = False
    async_scheduling: bool = False
    reserved_blocks: int = 0
    swap_space: float = 0.0
    note: str = ""

    def __post_init__(self) -> None:
        check(bool(self.budgets), "budgets", self.budgets, "at least one entry")
        host = ("host_seconds", "host_seconds_per_sequence")
        seconds = (*host, *(f"hidden_{name}" for name in host), "kernel_seconds")
        seconds = (*seconds, "gap_seconds_per_kernel", "gap_seconds_per_sequence")
        for key in (*seconds, "max_cudagraph_capture_size", "swap_space", "reserved_blocks"):
            check(getattr(self, key) >= 0, key, getattr(self, key), "0 or more")
        check(self.block_size >= 1, "block_size", self.block_size, "at least 1 token")
        share = self.gpu_memory_utilization
        check(0 < share <= 1, "gpu_memory_utilization", share, "a share above 0, at most 1")

    def budget(self, hardware: HardwareCard) -> Budget:
        """The default budgets on `hardware`."""
        return next((b for b in self.budgets if b.covers(hardware)), self.budgets[-1])


def find_engine(name: str, where: str = "engine") -> EnginePreset:
    """The preset of a name (see `catalog.names("engines")`) or of a user's own YAML file."""
    return read_card(EnginePreset, find("engines", name, where))


def policy_name(choice: PolicyChoice, where: str) -> tuple[str, dict[str, Any]]:
    """Name and parameters of a policy as a plan writes them: `sarathi`, or `{name: sarathi, batching: ...}`."""
    if isinstance(choice, str):
        return choice, {}
    parameters = dict(choice)
    if not isinstance(parameters.get("name"), str):
        raise InputError(f"{where}.name", "missing", "the name of a policy")
    return parameters.pop("name"), parameters
