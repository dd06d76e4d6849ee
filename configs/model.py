"""A model as the simulator sees it: groups of layers with their own KV rule, and what each number costs in bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from ..errors import InputError, unknown_name
from .experts import EVEN, Experts
from .strict import check


@dataclass(frozen=True)
class Attention:
    """Multi-head, grouped-query or multi-query attention: a key and a value a KV head and token in the cache."""

    heads: int
    kv_heads: int
    head_dim: int
    window: int | None = None  # a token sees this many tokens, itself included; None: all
    bias: bool = False  # on the q, k and v projections
    output_bias: bool = False
    head_norms: bool = False  # each query and key head is normalised before it is rotated (Qwen3)


@dataclass(frozen=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek): one compressed vector a token in the cache, shared by all heads."""

    heads: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    q_lora_rank: int | None = None  # None: the query is not compressed


@dataclass(frozen=True)
class StateSpace:
    """A Mamba layer: a state of constant size a request, whatever its context."""

    inner: int  # channels
    state_size: int  # numbers a channel
    conv_channels: int
    conv_kernel: int
    projection: int  # columns of the input projection
    dt_rank: int = 0  # Mamba-1 derives step, B and C through a low-rank projection; Mamba-2 in `projection`


@dataclass(frozen=True)
class DenseMLP:
    """One feed-forward block that every token passes."""

    intermediate: int
    gated: bool = True  # three matrices (gate, up, down) instead of two
    bias: bool = False


@dataclass(frozen=True)
class MoE:
    """A router, experts of which every token visits `top_k`, and a shared part that all tokens pass."""

    experts: int
    top_k: int
    intermediate: int
    shared_intermediate: int = 0
    gated: bool = True
    bias: bool = False
    deployed: Experts = EVEN


Mixer = Attention | LatentAttention | StateSpace
MLP = DenseMLP | MoE | None


@dataclass(frozen=True)
class LayerGroup:
    """Layers of one shape."""

    count: int
    mixer: Mixer
    mlp: MLP


@dataclass(frozen=True)
class Format:
    """How weights are stored (bits a parameter, scales included) and the number type their products are computed in."""

    bits: float
    compute: str  # a key of `HardwareCard.flops`

    def __post_init__(self) -> None:
        check(0 < self.bits <= 32, "bits", self.bits, "bits a parameter, above 0, at most 32")


DTYPES = {"float16": Format(16, "fp16"), "bfloat16": Format(16, "bf16"), "float32": Format(32, "fp32")}

# Names of vLLM's `--quantization` and of the formats themselves. Weight-only formats (None) compute in the model's
# dtype. Bits: int4 has a 16-bit scale and a 4-bit zero a group of 128 (MARLIN's symmetric one no zero: 4.125 bits,
# IST-DASLab/marlin); mxfp4 8 bits a 32, nvfp4 8 bits a 16; ternary packs five weights into a byte.
QUANTIZATIONS: dict[str, tuple[float, str | None]] = {
    "fp8": (8, "fp8"),
    "int8": (8, "int8"),
    "awq": (4 + 20 / 128, None),
    "gptq": (4 + 20 / 128, None),
    "marlin": (4 + 16 / 128, None),
    "mxfp4": (4.25, None),
    "nvfp4": (4.5, "fp4"),
    "ternary": (8 / 5, "int8"),
}


@dataclass(frozen=True)
class ModelCard:
    """The facts of a model that decide its memory and its times.

    order : the group of each layer, first layer to last (groups may interleave).
    dtype : of activations, embeddings, norms and the KV cache unless that is quantised; a key of `DTYPES`.
    linear, experts : storage of the attention, state and dense matrices, and of the experts.
    positions : rows of a learned position table (OPT), else 0.
    """

    name: str
    hidden_size: int
    vocab_size: int
    max_position_embeddings: int | None  # None: no limit
    dtype: str
    tie_word_embeddings: bool
    groups: tuple[LayerGroup, ...]
    order: tuple[int, ...]
    linear: Format
    experts: Format
    positions: int = 0

    @property
    def dtype_bytes(self) -> int:
        """Bytes of one activation."""
        return int(DTYPES[self.dtype].bits) // 8

    @property
    def layers(self) -> int:
        return len(self.order)

    def stage_counts(self, pipeline_parallel_size: int) -> tuple[tuple[int, ...], ...]:
        """How many layers of each group every pipeline stage holds.

        Source: vLLM's `get_pp_indices`: equal parts; what is left over goes to the stages before the last, which
        also has the head.
        """
        share, left = divmod(self.layers, pipeline_parallel_size)
        sizes = [share] * pipeline_parallel_size
        for back in range(2, left + 2):
            sizes[-back] += 1
        ends = [sum(sizes[:i]) for i in range(pipeline_parallel_size + 1)]
        return tuple(
            tuple(self.order[first:last].count(group) for group in range(len(self.groups)))
            for first, last in pairwise(ends)
        )


@dataclass(frozen=True)
class Parallelism:
    """How one replica's accelerators share a model, in vLLM's words."""

    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1  # attention copies in lockstep over one set of experts; no meaning without experts
    enable_expert_parallel: bool = False  # whole experts a rank; otherwise every expert is cut like a dense block

    def __post_init__(self) -> None:
        for key in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
            check(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")

    @property
    def expert_ranks(self) -> int:
        """Accelerators that share the experts of a layer (vLLM: tensor x data parallel, with or without EP)."""
        return self.tensor_parallel_size * self.data_parallel_size


def check_parallel(card: ModelCard, parallel: Parallelism) -> None:
    """Raise `InputError` where `card` cannot be cut as `parallel` asks."""
    tp, pp, ranks = parallel.tensor_parallel_size, parallel.pipeline_parallel_size, parallel.expert_ranks

    def fits(fit: bool, key: str, size: int, whole: int, what: str, expected: str) -> None:
        if not fit:
            raise InputError(key, f"{size} does not fit the {whole} {what} of {card.name}", expected)

    def divides(size: int, whole: int, what: str) -> None:
        fits(whole % size == 0, "tensor_parallel_size", size, whole, what, f"a divisor of {whole}")

    fits(pp <= card.layers, "pipeline_parallel_size", pp, card.layers, "layers", f"at most {card.layers}")
    for group in card.groups:
        mixer, mlp = group.mixer, group.mlp
        if isinstance(mixer, StateSpace):
            divides(tp, mixer.inner, "state channels")
        else:
            divides(tp, mixer.heads, "attention heads")
        if isinstance(mixer, Attention) and tp <= mixer.kv_heads:
            divides(tp, mixer.kv_heads, "KV heads")
        elif isinstance(mixer, Attention):  # KV heads are copied
            kv = mixer.kv_heads
            fits(tp % kv == 0, "tensor_parallel_size", tp, kv, "KV heads", f"a divisor or a multiple of {kv}")
        if isinstance(mlp, DenseMLP):
            divides(tp, mlp.intermediate, "intermediate columns")
        elif isinstance(mlp, MoE) and parallel.enable_expert_parallel:
            copies = mlp.experts + mlp.deployed.redundant
            what = "experts" if copies == mlp.experts else "experts and copies"
            fits(copies % ranks == 0, "enable_expert_parallel", ranks, copies, what, f"a divisor of {copies}")
        elif isinstance(mlp, MoE):
            divides(ranks, mlp.intermediate, "columns an expert")
    if parallel.enable_expert_parallel and not any(isinstance(group.mlp, MoE) for group in card.groups):
        raise InputError("enable_expert_parallel", f"true for {card.name}, which has no experts", "false")


def with_experts(card: ModelCard, deployed: Experts) -> ModelCard:
    """`card` with its experts deployed otherwise. Raises `InputError` for a model that has none."""
    if not any(isinstance(group.mlp, MoE) for group in card.groups):
        raise InputError("experts", f"given for {card.name}, which has no experts", "a mixture of experts")
    groups = [replace(g, mlp=replace(g.mlp, deployed=deployed)) if isinstance(g.mlp, MoE) else g for g in card.groups]
    return replace(card, groups=tuple(groups))


def quantized(card: ModelCard, name: str | Format, key: str = "quantization") -> ModelCard:
    """`card` with all its matrices stored as `name` (a key of `QUANTIZATIONS`, or a format), as vLLM's `--quantization`
    does."""
    if isinstance(name, Format):
        return replace(card, linear=name, experts=name)
    if name not in QUANTIZATIONS:
        raise unknown_name(key, "weight format", name, QUANTIZATIONS)
    bits, compute = QUANTIZATIONS[name]
    stored = Format(bits, compute or DTYPES[card.dtype].compute)
    return replace(card, linear=stored, experts=stored)
