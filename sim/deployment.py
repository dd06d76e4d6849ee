"""One pool of a plan, ready to be built: what `deploy` makes, and what makes the parts of its engines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..configs.device import HardwareCard
from ..configs.engine import EnginePreset, PolicyChoice, policy_name
from ..configs.model import LatentAttention, ModelCard, MoE
from ..configs.plan import Pool
from ..costmodels.base import CostModel, ticks
from ..costmodels.blocks import BlockCost
from ..costmodels.drafting import Drafter
from ..costmodels.lora import LoraCost
from ..costmodels.memory import KVCapacity
from ..costmodels.shared import SharedTimes
from ..costmodels.tenancy import Tenancy
from ..costmodels.transfer import swap_seconds
from ..errors import InputError
from ..traces.columns import PrefixBlocks
from .core import BatchPolicy, KVPolicy, Limits, QueuePolicy
from .kv.adapterpool import AdapterPool
from .kv.chunkpool import ReusePool
from .kv.eviction import Eviction, EvictionPolicy
from .kv.pool import BlockPool
from .kv.prefix import PrefixPool
from .kv.swapspace import SwapSpace
from .policies.registry import make_policy


@dataclass(frozen=True)
class Deployment:
    """One pool, ready to be built.

    capacity : the memory arithmetic, also where `num_gpu_blocks_override` replaces its result.
    blocks, host_blocks : KV blocks of one engine on the device, less what it reserves, and in the host's swap space.
    prefix_caching : whether freed KV blocks can be found again. reuses : whether chunks are, wherever they stand.
    shared : times of two streams, where the pool has them.
    drafter : what drafts, where tokens are speculated on and that takes time.
    usd_per_hour : of the whole pool, None where no price is known.
    lora : what adapters cost, where the plan has any; adapter_blocks : KV blocks of each, if they share the memory.
    block_cost : of models that share layers, where the pool has such.
    tenancy : whom it shares its accelerators with, and what of its weights comes and goes.
    """

    pool: Pool
    model: ModelCard
    hardware: HardwareCard
    preset: EnginePreset
    limits: Limits
    cost: CostModel
    capacity: KVCapacity
    blocks: int
    host_blocks: int
    prefix_caching: bool
    usd_per_hour: float | None
    where: str
    reuses: bool = False
    lora: LoraCost | None = None
    adapter_blocks: tuple[int, ...] = ()
    drafter: Drafter | None = None
    shared: SharedTimes | None = None
    block_cost: BlockCost | None = None
    tenancy: Tenancy | None = None

    def batch_policy(self) -> BatchPolicy:
        """A batch policy of its own for one engine, with its KV policy."""
        policy: BatchPolicy = self._make("batch", self.pool.batch or self.preset.batch)
        if self.pool.kv or not self.pool.batch:  # another batch policy brings its own unless the pool names one
            policy.kv = self._make("kv", self.pool.kv or self.preset.kv)
        learn = getattr(policy, "learn", None)
        if learn:
            learn(self.cost)
        return policy

    def queue_policy(self) -> QueuePolicy:
        """A queue policy of its own for one engine."""
        made: QueuePolicy = self._make("queue", self.pool.queue or self.preset.queue)
        return made

    def kv_pool(self, prefixes: PrefixBlocks | None) -> BlockPool:
        """The KV memory of one engine. `prefixes` : the block ids of the trace."""
        if self.adapter_blocks:
            return AdapterPool(self.blocks, self.adapter_blocks)
        policy: EvictionPolicy = self._make("eviction", self.pool.eviction)
        if not self.prefix_caching:
            return BlockPool(self.blocks)
        worth = None if policy.by_age else Eviction(policy, self.cost).worth
        try:
            kind = ReusePool if self.reuses else PrefixPool
            return kind(self.blocks, self.limits.block_size, prefixes, worth)
        except InputError as error:
            raise error.at(self.where) from None

    def swap_space(self, kv: KVPolicy) -> SwapSpace:
        """The host memory of one engine for those who lose their blocks, as its KV policy uses it.

        The cache is a tensor of keys and one of values a layer, and each is copied by a call of its own (`swap_blocks`
        of vLLM's cache engine; latent attention has one tensor a layer).
        """
        if not (self.host_blocks and kv.swaps):
            return SwapSpace(self.host_blocks)
        block = self.capacity.shape.token_bytes * self.capacity.block_size
        call = ticks(swap_seconds(0, self.hardware))
        tensors = sum(g.count * (1 if isinstance(g.mixer, LatentAttention) else 2) for g in self.model.groups)
        latency = -(-tensors // self.pool.pipeline_parallel_size) * call
        each = ticks(swap_seconds(block, self.hardware)) - call
        keep, overlap = (bool(getattr(kv, name, False)) for name in ("keep", "overlap"))
        return SwapSpace(self.host_blocks, getattr(kv, "group", 1), latency, each, keep, overlap)

    def _make(self, kind: str, choice: PolicyChoice) -> Any:
        where = f"{self.where}.{kind}"
        return make_policy(kind, *policy_name(choice, where), where)

    @property
    def ahead(self) -> bool:
        """Whether batches are decided ahead (asynchronous scheduling).

        Not with pipeline stages or in lockstep, where batches in flight or the slowest rank set the pace.
        """
        if self.lockstep or len(self.cost.stages) > 1 or self.pool.techniques.speculation or self.pool.streams:
            return False
        if self.tenancy:  # the next batch may be another model's
            return False
        return first_given(self.pool.async_scheduling, self.preset.async_scheduling)

    @property
    def lockstep(self) -> bool:
        """Whether the data-parallel ranks share experts and so must run their iterations together."""
        return in_lockstep(self.pool, self.model)


def in_lockstep(pool: Pool, model: ModelCard) -> bool:
    """Whether data-parallel ranks of a pool share experts."""
    moe = any(isinstance(group.mlp, MoE) for group in model.groups)
    return pool.data_parallel_size > 1 and moe and (pool.experts is None or pool.experts.lockstep)


def first_given(*values: bool | None) -> bool:
    """The first that is not None: what a pool says, else what its preset does."""
    return next(bool(v) for v in values if v is not None)
