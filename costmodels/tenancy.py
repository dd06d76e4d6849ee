"""What a model takes that shares accelerators with others: its weights come and go, or stay."""

from __future__ import annotations

from dataclasses import dataclass

from ..configs.device import HardwareCard
from ..configs.model import ModelCard
from ..configs.plan import Pool
from ..configs.sharing import SharedGPUs
from .base import ticks
from .shapes import stage_operators, weight_bytes
from .transfer import swap_seconds

_GIB = 1 << 30


@dataclass(frozen=True)
class Tenancy:
    """pools : all that share the accelerators. weights : bytes on one of them that come and go, 0: they stay.
    load_ticks : for them to come from the host, to all accelerators at once."""

    pools: tuple[str, ...]
    weights: float
    load_ticks: int

    def line(self, name: str) -> str:
        """In words, for pool `name`."""
        shared = f"on the same accelerators as {', '.join(pool for pool in self.pools if pool != name)}"
        if not self.weights:
            return shared
        return f"{shared}; {self.weights / _GIB:.1f} GiB of weights come in {self.load_ticks / ticks(1):.2f} s"


def tenancy(group: SharedGPUs, model: ModelCard, hardware: HardwareCard, pool: Pool) -> Tenancy:
    """Of one pool."""
    if group.weight_space is None:
        return Tenancy(group.pools, 0.0, 0)
    size = weight_bytes(stage_operators(model, pool.parallel, 0, pool.kv_cache_dtype))
    return Tenancy(group.pools, size, ticks(swap_seconds(size, hardware)))
