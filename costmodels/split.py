"""A replica whose attention runs on other accelerators than its matrices: two stages that batches pass in turn.

Source: Lamina, "Efficient Heterogeneous Large Language Model Decoding with Model-Attention Disaggregation" (2024). In
every layer queries, keys and values go to the attention workers and outputs come back: (2 + 2 / G) x hidden numbers a
token, with G heads a KV head. Two batches rotate: one is with the model workers while the other is on its way to the
attention workers, or with them. Each side is a stage here, passed once an iteration with its work of all layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..configs.attention_workers import AttentionWorkers
from ..configs.device import HardwareCard
from ..configs.model import Attention
from ..errors import InputError
from .base import Chunk, Piece, StageCost
from .composed import ComposedCost
from .curve import Curve
from .launch import fed
from .memory import KVCapacity
from .operators import (
    AttentionCall,
    Collective,
    LayerOperators,
    Move,
    OperatorTimes,
    RowOperator,
    StageOperators,
    Timing,
)
from .roofline import RooflineTimes
from .shapes import model_kv_shape
from .stage import Stage


class _WithoutAttention:
    """The times of all operators but attention."""

    def __init__(self, times: OperatorTimes) -> None:
        self.rows, self.collective, self.describe = times.rows, times.collective, times.describe

    def attention(self, operator: AttentionCall) -> Timing:
        return 0.0, 0.0

    def decode(self, operator: AttentionCall, decodes: int) -> Curve:
        return Curve.line(0, 0)

    def prefill(self, operator: AttentionCall, tokens: int) -> Curve:
        return Curve.line(0, 0)

    def together(self, operator: AttentionCall, parts: int, tokens: int) -> Timing:
        return 0.0, 0.0


class _LinkTimes(_WithoutAttention):
    """Bytes over the link, and its latency."""

    def __init__(self, bandwidth: float, latency: float) -> None:
        self._bandwidth, self._latency = bandwidth, latency

    def rows(self, operator: RowOperator, rows: int) -> Timing:
        return self._latency + operator.bytes(rows) / self._bandwidth, 0.0

    def collective(self, operator: Collective, rows: int) -> Timing:
        raise AssertionError("the link has no collectives")

    def describe(self, operators: Sequence[StageOperators]) -> dict[str, object]:
        return {}


class _OneAfterTheOther:
    """Stages as one, without overlap."""

    def __init__(self, *stages: StageCost) -> None:
        self._stages = stages

    def piece(
        self, chunks: Sequence[Chunk], decodes: int, context_sum: int, context_min: int, context_max: int
    ) -> Piece:
        """See `StageCost.piece`."""
        pieces = [stage.piece(chunks, decodes, context_sum, context_min, context_max) for stage in self._stages]
        bases, slopes, valid, outside = zip(*pieces, strict=True)
        return sum(bases), sum(slopes), min(valid), sum(outside)


class SplitCost:
    """A `CostModel` of two stages: the matrices; the link and the attention.

    base : of the model workers, attention included.
    """

    extremes = False

    def __init__(self, base: ComposedCost, workers: AttentionWorkers, hardware: HardwareCard) -> None:
        if base.parallel.pipeline_parallel_size > 1:
            raise InputError("attention_workers", "given with pipeline stages", "pipeline_parallel_size: 1")
        self.base, self.workers, self.hardware = base, workers, hardware
        self.label = base.label
        self.host, self.meters = base.host, dict[str, Sequence[StageCost]]()
        stage = base.operators[0]
        dense = Stage(stage, _WithoutAttention(base.times), base.launch)
        matrices = fed(dense, stage.launches, base.launch, base.host_overhead)
        self.row_bytes = sum(g.count * self._layer_bytes(g) for g in stage.layers)
        layers = sum(g.count for g in stage.layers)
        lanes = min(workers.count, base.parallel.tensor_parallel_size)  # links that work at the same time
        link = StageOperators((), (Move("attention_link", self.row_bytes),), ())
        way = Stage(link, _LinkTimes(lanes * workers.bandwidth, 2 * layers * workers.latency))
        share = StageOperators(tuple(self._share(g) for g in stage.layers), (), ())
        attention = Stage(share, RooflineTimes(hardware))
        self.stages: Sequence[StageCost] = [matrices, _OneAfterTheOther(way, attention)]

    def _layer_bytes(self, group: LayerOperators) -> float:
        """Bytes of a token in one layer, there and back: query, key, value and output."""
        mixer = group.attention.mixer
        if not isinstance(mixer, Attention) or mixer.window is not None:
            found = f"given, and {self.base.model.name} has other layers than plain attention"
            raise InputError("attention_workers", found, "a model whose layers keep keys and values of every head")
        heads = (2 * mixer.heads + 2 * mixer.kv_heads) * self.base.parallel.tensor_parallel_size
        return float(heads * mixer.head_dim * group.attention.dtype_bytes)

    def _share(self, group: LayerOperators) -> LayerOperators:
        """A layer's attention on one worker."""
        mixer, ranks = group.attention.mixer, self.base.parallel.tensor_parallel_size
        assert isinstance(mixer, Attention)
        heads, kv_heads = mixer.heads * ranks, mixer.kv_heads * ranks
        if kv_heads % self.workers.count:
            found = f"{self.workers.count} for {kv_heads} KV heads"
            raise InputError("attention_workers.count", found, "a divisor of the KV heads")
        mine = replace(mixer, heads=heads // self.workers.count, kv_heads=kv_heads // self.workers.count)
        return LayerOperators(group.count, (), replace(group.attention, mixer=mine))

    def hop(self, tokens: int) -> int:
        """The link is part of the second stage."""
        return 0

    def describe(self) -> dict[str, object]:
        """Provenance and parameters, for the report."""
        own = {"hardware": self.hardware.name, "count": self.workers.count, "bytes_a_token": self.row_bytes}
        return {**self.base.describe(), "attention_workers": own}


def workers_capacity(
    capacity: KVCapacity, cost: SplitCost, gpu_memory_utilization: float, kv_cache_dtype: str
) -> KVCapacity:
    """The KV memory of the attention workers, which hold nothing else but what any process does."""
    count = cost.workers.count
    left = count * (cost.hardware.memory_bytes * gpu_memory_utilization - capacity.framework_bytes)
    shape = model_kv_shape(cost.base.model, kv_cache_dtype)
    return replace(
        capacity, device_bytes=count * cost.hardware.memory_bytes, gpu_memory_utilization=gpu_memory_utilization,
        weight_bytes=0.0, activation_bytes=0.0, framework_bytes=count * capacity.framework_bytes, kv_bytes=left,
        shape=shape, num_blocks=int(left // (shape.token_bytes * capacity.block_size)),
    )  # fmt: skip
