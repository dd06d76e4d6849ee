"""What LoRA adapters add to an iteration, and their bytes.

Source: Punica (MLSys'24) and S-LoRA (MLSys'24). For every adapted matrix one kernel brings the rows down to the rank
and one brings them up again, for all adapters of a batch at once. Each reads the weights of every adapter in the batch
once, so the time follows the sum of the ranks of distinct adapters where memory bounds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ..configs.adapters import Adapters
from ..configs.device import HardwareCard
from ..configs.model import ModelCard, Parallelism
from ..errors import unknown_name
from .base import ticks
from .operators import Gemm
from .shapes import stage_operators

_PARTS = {"qkv_proj": 3, "gate_up_proj": 2}  # matrices that the engine keeps as one, each adapted by itself


class Target(NamedTuple):
    """An adapted matrix on one rank. A rank-r adapter has r x (inputs + outputs) numbers for it."""

    layers: int
    inputs: int  # summed over its parts
    outputs: int


def targets(adapters: Adapters, model: ModelCard, parallel: Parallelism) -> list[Target]:
    """The adapted matrices. Raises `InputError` for a name that no layer has."""
    names: set[str] = set()
    found = []
    for group in stage_operators(model, parallel, 0).layers:
        for gemm in group.rows:
            if isinstance(gemm, Gemm):
                names.add(gemm.name)
                if gemm.name in adapters.targets:
                    found.append(Target(group.count, _PARTS.get(gemm.name, 1) * gemm.inputs, gemm.outputs))
    for name in adapters.targets:
        if name not in names:
            raise unknown_name("adapters.targets", f"matrix of {model.name}", name, names)
    return found


class LoraCost:
    """Bytes and times of the adapters of one replica, on one of its tensor-parallel ranks."""

    def __init__(self, adapters: Adapters, model: ModelCard, hardware: HardwareCard, parallel: Parallelism) -> None:
        self.adapters = adapters
        self._targets = targets(adapters, model, parallel)
        self._dtype = model.dtype_bytes
        self._hardware = hardware
        self._rate = hardware.rate(model.dtype.replace("bfloat", "bf").replace("float", "fp"))
        self._bandwidth = hardware.memory_bandwidth * hardware.achieved.memory
        self._known: dict[tuple[int, int, int], int] = {}

    def adapter_bytes(self, adapter: int) -> int:
        """Bytes of an adapter's matrices."""
        numbers = sum(t.layers * (t.inputs + t.outputs) for t in self._targets)
        return self.adapters.rank(adapter) * numbers * self._dtype

    def fetch(self, adapter: int) -> int:
        """Ticks to bring an adapter from the host."""
        host = self._hardware.host
        return ticks(host.latency + self.adapter_bytes(adapter) / (host.bandwidth * self._hardware.achieved.link))

    def iteration(self, tokens: Mapping[int, int]) -> int:
        """Ticks that adapters add where a batch has so many tokens of each."""
        ranks = {adapter: self.adapters.rank(adapter) for adapter in tokens}
        key = sum(ranks.values()), sum(tokens.values()), sum(n * ranks[adapter] for adapter, n in tokens.items())
        if not key[1]:
            return 0
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = ticks(sum(self._kernels(*key)))
        return known

    def _kernels(self, ranks: int, tokens: int, products: int) -> Iterator[float]:
        """Seconds of each target's two kernels. ranks : of distinct adapters, summed. products : tokens x rank."""
        for target in self._targets:
            for width in (target.inputs, target.outputs):
                moved = (ranks * width + tokens * width + products) * self._dtype
                kernel = max(2.0 * products * width / self._rate, moved / self._bandwidth)
                yield target.layers * (kernel + self._hardware.achieved.kernel_seconds)
