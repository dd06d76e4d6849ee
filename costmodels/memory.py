"""How many KV blocks fit beside a model: the arithmetic, term by term."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..configs.device import HardwareCard
from ..configs.model import ModelCard, Parallelism, check_parallel
from ..configs.techniques import NONE, Techniques
from ..errors import InputError
from .operators import Collective, Experts, Gemm, Move, RowOperator, StageOperators
from .shapes import KVShape, kv_shape, stage_operators, weight_bytes
from .techniques import with_techniques

# Bytes a logit while an engine profiles its sampler with top-p (vLLM): 2 + 4 for the logits in the model's dtype and in
# float32, 4 + 8 sorted values and indices, the rest scratch of the sort. 35 follows from the block count of the
# RTX 4090 run (vLLM 0.19.0), 39 and 41 from logs of vLLM 0.7 (issue 13061) and 0.6 (pull request 10511).
_SAMPLER_BYTES = 36
# What a process holds outside the allocator: 0.06 to 0.16 GiB in vLLM's logs on one GPU (pull request 12126), 0.20 to
# 0.25 with communicators (pull request 14447, issue 13061).
_FRAMEWORK_BYTES = 100 << 20
_COMMUNICATOR_BYTES = 140 << 20
_WHOLE_REQUEST = 1 << 30  # tokens of a block where one block is a request's state, however long the request


@dataclass(frozen=True)
class KVCapacity:
    """The terms of one rank's memory, in bytes, on the pipeline stage that fits the fewest blocks.

    device_bytes x gpu_memory_utilization = weights + activations + framework + reserved + kv_bytes
    """

    device_bytes: int
    gpu_memory_utilization: float
    weight_bytes: float
    activation_bytes: float
    framework_bytes: float
    reserved_bytes: float
    kv_bytes: float
    stage: int
    shape: KVShape  # what requests take of it, on this rank
    block_size: int
    num_blocks: int

    @property
    def num_tokens(self) -> int:
        return self.num_blocks * self.block_size

    def lines(self) -> list[str]:
        """The arithmetic, a term a line."""
        gib = 1 << 30
        terms = [
            ("device memory", self.device_bytes),
            (f"x {self.gpu_memory_utilization:g} utilisation", self.device_bytes * self.gpu_memory_utilization),
            ("- weights", self.weight_bytes),
            ("- activation peak", self.activation_bytes),
            ("- framework", self.framework_bytes),
            ("- reserved", self.reserved_bytes),
            (f"= KV cache on a rank of stage {self.stage}", self.kv_bytes),
        ]
        blocks = f"{self.num_blocks} blocks of {self.block_size} tokens = {self.num_tokens} tokens"
        return [f"{name:<32}{size / gib:9.3f} GiB" for name, size in terms] + [blocks]


def kv_capacity(
    card: ModelCard,
    hardware: HardwareCard,
    parallel: Parallelism | None = None,
    *,
    gpu_memory_utilization: float = 0.9,
    max_num_batched_tokens: int = 2048,
    max_num_seqs: int = 256,
    block_size: int = 16,
    kv_cache_dtype: str = "auto",
    reserved_bytes: float = 0.0,
    weights_elsewhere: bool = False,
    techniques: Techniques = NONE,
    beside: tuple[float, float] = (0.0, 0.0),
) -> KVCapacity:
    """The KV blocks that fit one replica of `card`, as vLLM counts them: the worker with the fewest decides.

    reserved_bytes : further memory within the utilisation, such as CUDA graphs where an engine counts them (vLLM to
        0.19 at least captures them afterwards, from the memory that the utilisation leaves free).
    weights_elsewhere : the weights are in memory of their own, beyond the utilisation.

    A block holds `block_size` tokens of all layers that keep every token; requests take `shape.constant_bytes` besides,
    once they have outgrown the sliding windows. Where every layer has a window, a block holds windowed tokens. Where
    no layer keeps tokens, a block is a request's state, and the `block_size` returned is longer than any request.

    Raises InputError with the arithmetic where not even one block fits.
    """
    parallel = parallel or Parallelism()
    check_parallel(card, parallel)
    ranks = parallel.expert_ranks * parallel.pipeline_parallel_size
    framework = _FRAMEWORK_BYTES + (_COMMUNICATOR_BYTES if ranks > 1 else 0)
    capacities = []
    for stage in range(parallel.pipeline_parallel_size):
        operators = stage_operators(card, parallel, stage, kv_cache_dtype)
        shape, weights = kv_shape(with_techniques(operators, card, techniques)), weight_bytes(operators)
        weights = 0.0 if weights_elsewhere else weights
        token, request = beside
        shape = replace(shape, token_bytes=shape.token_bytes + token, recent_bytes=shape.recent_bytes + request)
        activations = activation_bytes(card, operators, max_num_batched_tokens, max_num_seqs)
        left = hardware.memory_bytes * gpu_memory_utilization - weights - activations - framework - reserved_bytes
        row = shape.token_bytes or sum(rate for _, rate in shape.windows)
        capacity = KVCapacity(
            device_bytes=hardware.memory_bytes,
            gpu_memory_utilization=gpu_memory_utilization,
            weight_bytes=weights,
            activation_bytes=activations,
            framework_bytes=framework,
            reserved_bytes=reserved_bytes,
            kv_bytes=left,
            stage=stage,
            shape=shape,
            block_size=block_size if row else _WHOLE_REQUEST,
            num_blocks=int(left // (row * block_size or shape.constant_bytes)),
        )
        capacities.append(capacity)
    # A stage of state-space layers alone counts requests, not tokens: it decides only where no stage counts tokens.
    least = min(capacities, key=lambda c: (c.num_blocks >= 1, c.block_size, c.num_blocks))
    if least.num_blocks < 1:
        arithmetic = "; ".join(line.strip() for line in least.lines()[:-1])
        found = f"{card.name} leaves no room for a KV block on {hardware.name}: {' '.join(arithmetic.split())}"
        raise InputError("model", found, "more ranks, a larger device, or smaller weights")
    return least


def activation_bytes(card: ModelCard, stage: StageOperators, max_num_batched_tokens: int, max_num_seqs: int) -> float:
    """Peak bytes of activations in a pass of `max_num_batched_tokens` tokens on one rank.

    Alive at once: the residual, the input of a layer's block, and the widest of what the block makes of it (an MLP's
    up (and gate) projection together with its activation); or, at the end, the last hidden states and the logits of
    `max_num_seqs` requests with the sampler's scratch.
    """
    hidden = float(max_num_batched_tokens * card.hidden_size * card.dtype_bytes)
    widest = max(_row_bytes(operator) for group in stage.layers for operator in group.rows)
    layers = 2 * hidden + max_num_batched_tokens * widest
    sampler = hidden + max_num_seqs * card.vocab_size * _SAMPLER_BYTES if stage.sequences else 0.0
    return max(layers, sampler)


def _row_bytes(operator: RowOperator | Collective) -> float:
    """Bytes a token that an operator keeps alive besides its layer's residual and input."""
    if isinstance(operator, Gemm):
        return float(operator.outputs * operator.dtype_bytes)
    if isinstance(operator, Experts):
        inside = operator.intermediate * (3 if operator.gated else 2) + operator.hidden
        return operator.visits(1) * inside * operator.dtype_bytes
    if isinstance(operator, Move) and operator.name.endswith("activation"):
        return operator.row_bytes
    return 0.0
