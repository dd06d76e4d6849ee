"""A model card cut for one rank: the operators of each pipeline stage, its weights and its KV cache, in bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..configs.compression import KVCompression
from ..configs.experts import EVEN
from ..configs.model import (
    DTYPES,
    MLP,
    Attention,
    DenseMLP,
    LatentAttention,
    Mixer,
    ModelCard,
    MoE,
    Parallelism,
    StateSpace,
)
from ..configs.techniques import NONE, Techniques
from ..errors import unknown_name
from .attention import state_numbers
from .compressed import index_bytes, older_bytes
from .operators import (
    AttentionCall,
    Collective,
    Experts,
    Gemm,
    LayerOperators,
    Move,
    RowOperator,
    StageOperators,
)
from .routing import deployed, hidden_fetches
from .techniques import with_techniques

_CACHE_BYTES = {"fp8": 1.0, "fp8_e4m3": 1.0, "fp8_e5m2": 1.0, "int8": 1.0, "float16": 2.0, "bfloat16": 2.0}
_SAMPLER_BYTES = 8  # traffic a logit, greedy: 7.5 and 8.6 measured (LLMServingSim profiles, RTX PRO 6000 and RTX 4090)

_Operators = list[RowOperator | Collective]


def cache_bytes(card: ModelCard, kv_cache_dtype: str) -> float:
    """Bytes of one number in the KV cache; "auto" stores the model's dtype."""
    if kv_cache_dtype == "auto":
        return float(card.dtype_bytes)
    if kv_cache_dtype not in _CACHE_BYTES:
        raise unknown_name("kv_cache_dtype", "KV cache format", kv_cache_dtype, ["auto", *_CACHE_BYTES])
    return _CACHE_BYTES[kv_cache_dtype]


class _Rank:
    """Writes operators of `card` for one rank of `parallel`."""

    def __init__(self, card: ModelCard, parallel: Parallelism) -> None:
        self.card, self.parallel, self.tp = card, parallel, parallel.tensor_parallel_size
        self.hidden, self.dtype, self.plain = card.hidden_size, card.dtype_bytes, DTYPES[card.dtype]

    def gemm(self, name: str, inputs: int, outputs: int, bias: bool = False) -> Gemm:
        return Gemm(name, inputs, outputs, self.card.linear, self.dtype, bias)

    def move(self, name: str, numbers: float, parameters: int = 0) -> Move:
        return Move(name, numbers * self.dtype, parameters, self.dtype)

    def norm(self, name: str) -> Move:
        """The residual is added in the same kernel: two rows in, two out."""
        return self.move(name, 4 * self.hidden, self.hidden)

    def all_reduce(self, name: str) -> _Operators:
        row = float(self.hidden * self.dtype)
        return [Collective(name, "all_reduce", self.tp, row)] if self.tp > 1 else []

    def mixer(self, mixer: Mixer, element: float) -> tuple[_Operators, Mixer]:
        """Projections around the mixing of tokens, and the mixer that is left to this rank."""
        hidden, tp = self.hidden, self.tp
        if isinstance(mixer, StateSpace):
            inner, channels = mixer.inner // tp, mixer.conv_channels // tp
            operators: _Operators = [
                self.gemm("in_proj", hidden, mixer.projection // tp),
                self.move("conv", 2 * channels, channels * mixer.conv_kernel),
            ]
            if mixer.dt_rank:
                operators.append(self.gemm("x_proj", inner, mixer.dt_rank + 2 * mixer.state_size))
                operators.append(self.gemm("dt_proj", mixer.dt_rank, inner, bias=True))
            operators.append(self.gemm("out_proj", inner, hidden))
            return operators, replace(mixer, inner=inner, conv_channels=channels)
        heads = mixer.heads // tp
        if isinstance(mixer, LatentAttention):
            query = heads * (mixer.qk_nope_head_dim + mixer.qk_rope_head_dim)
            latent = mixer.kv_lora_rank + mixer.qk_rope_head_dim
            rank = mixer.q_lora_rank
            operators = [self.gemm("qkv_a_proj", hidden, (rank or query) + latent)]
            if rank:
                operators.append(self.gemm("q_b_proj", rank, query))
            operators += [
                Move("rotary_and_cache", 2.0 * query * self.dtype + latent * (self.dtype + element)),
                self.gemm("kv_b_proj", mixer.kv_lora_rank, heads * (mixer.qk_nope_head_dim + mixer.v_head_dim)),
                self.gemm("o_proj", heads * mixer.v_head_dim, hidden),
            ]
            return operators, replace(mixer, heads=heads)
        kv_heads = max(1, mixer.kv_heads // tp)  # copied where there are more ranks than KV heads
        query, keys = heads * mixer.head_dim, kv_heads * mixer.head_dim
        operators = [
            self.gemm("qkv_proj", hidden, query + 2 * keys, mixer.bias),
            Move("rotary_and_cache", 2.0 * (query + keys) * self.dtype + 2.0 * keys * (self.dtype + element)),
            self.gemm("o_proj", query, hidden, mixer.output_bias),
        ]
        return operators, replace(mixer, heads=heads, kv_heads=kv_heads)

    def dense(self, intermediate: int, gated: bool, bias: bool, prefix: str = "") -> _Operators:
        wide = intermediate * (2 if gated else 1)
        return [
            self.gemm(prefix + ("gate_up_proj" if gated else "up_proj"), self.hidden, wide, bias),
            self.move(prefix + "activation", wide + intermediate),
            self.gemm(prefix + "down_proj", intermediate, self.hidden, bias),
        ]

    def mlp(self, mlp: MLP) -> _Operators:
        if mlp is None:
            return []
        if isinstance(mlp, DenseMLP):
            return [*self.dense(mlp.intermediate // self.tp, mlp.gated, mlp.bias), *self.all_reduce("mlp_all_reduce")]
        ranks, whole = self.parallel.expert_ranks, self.parallel.enable_expert_parallel
        experts = Experts(
            "experts",
            self.hidden,
            mlp.intermediate if whole else mlp.intermediate // ranks,
            held=(mlp.experts + mlp.deployed.redundant) // ranks if whole else mlp.experts,
            total=mlp.experts,
            top_k=mlp.top_k,
            gated=mlp.gated,
            bias=mlp.bias,
            format=self.card.experts,
            dtype_bytes=self.dtype,
            batches=self.parallel.data_parallel_size,
        )
        router = Gemm("router", self.hidden, mlp.experts, self.plain, self.dtype, mlp.bias)
        there, back = self.exchange(mlp.top_k)
        operators: _Operators = [router, *there, experts, *back]
        if not mlp.deployed.even:
            operators = deployed(operators, mlp, ranks if whole else 1)
        if mlp.shared_intermediate:
            operators += self.dense(mlp.shared_intermediate // self.tp, mlp.gated, mlp.bias, "shared_")
        return operators + self.all_reduce("mlp_all_reduce")

    def exchange(self, top_k: int) -> tuple[_Operators, _Operators]:
        """What brings the tokens of data-parallel ranks to the experts and back, as vLLM does it: all-to-all with
        expert parallelism (a rank sends its share of the tokens, one copy to each rank that holds one of their
        experts), else all-gather and reduce-scatter."""
        copies, ranks = self.parallel.data_parallel_size, self.parallel.expert_ranks
        row = float(self.hidden * self.dtype)
        if copies == 1:
            return [], []
        if self.parallel.enable_expert_parallel:
            there = Collective("dispatch", "all_to_all", ranks, min(top_k, ranks) * row / self.tp)
            return [there], [replace(there, name="combine")]
        there = Collective("dispatch", "all_gather", copies, copies * row, stride=self.tp)
        return [there], [replace(there, name="combine", kind="reduce_scatter")]


def stage_operators(card: ModelCard, parallel: Parallelism, stage: int, kv_cache_dtype: str = "auto") -> StageOperators:
    """The operators of pipeline stage `stage` (0 the first) on one of its ranks."""
    rank, element = _Rank(card, parallel), cache_bytes(card, kv_cache_dtype)
    layers = []
    for count, group in zip(card.stage_counts(parallel.pipeline_parallel_size)[stage], card.groups, strict=True):
        if count:
            around, mixer = rank.mixer(group.mixer, element)
            feed_forward = rank.mlp(group.mlp)
            second = [rank.norm("mlp_norm")] if feed_forward else []
            rows = [rank.norm("norm"), *around, *rank.all_reduce("attention_all_reduce"), *second, *feed_forward]
            call = AttentionCall(mixer, element, card.dtype_bytes, rank.plain.compute)
            plan = group.mlp.deployed if isinstance(group.mlp, MoE) else EVEN
            if plan.pregated:
                rows = hidden_fetches(rows)
            layers.append(LayerOperators(count, tuple(rows), call, plan.overlap))
    first, last = stage == 0, stage == parallel.pipeline_parallel_size - 1
    tokens: _Operators = []
    sequences: _Operators = []
    vocabulary = -(-card.vocab_size // rank.tp)
    if first:
        tables = (vocabulary + card.positions) * card.hidden_size
        tokens += [rank.move("embedding", 2 * card.hidden_size, tables), *rank.all_reduce("embedding_all_reduce")]
    if last:
        tokens.append(rank.norm("final_norm"))
        stored = not (first and card.tie_word_embeddings)
        sequences.append(Gemm("lm_head", card.hidden_size, vocabulary, rank.plain, rank.dtype, stored=stored))
        if rank.tp > 1:
            logits = float(card.vocab_size * rank.dtype)
            sequences.append(Collective("logits_all_gather", "all_gather", rank.tp, logits))
        sequences.append(Move("sampler", float(_SAMPLER_BYTES * card.vocab_size)))
    return StageOperators(tuple(layers), tuple(tokens), tuple(sequences))


def weight_bytes(stage: StageOperators) -> float:
    """Bytes of weights on one rank of a stage."""
    return sum(count * operator.weight_bytes for count, operator in stage.weights())


def parameters(card: ModelCard) -> tuple[int, int]:
    """Parameters in all, and those that one token passes (the embedding table counted whole)."""
    held = stage_operators(card, Parallelism(), 0).weights()
    idle = sum(
        count * operator.expert_parameters * (operator.total - operator.top_k)
        for count, operator in held
        if isinstance(operator, Experts)
    )
    everything = sum(count * operator.parameters for count, operator in held)
    return everything, everything - idle


@dataclass(frozen=True)
class KVShape:
    """Bytes of cache that requests take on one rank of one stage.

    token_bytes : a token, in the layers that keep every token, or a share of all.
    windows : (window, bytes a token) of the layers that keep the last `window` tokens.
    state_bytes : a request, in state-space layers.
    recent_bytes : a request, by which its latest tokens are larger than the others where those are compressed.
    outgrown : tokens after which the layers of `token_bytes` keep no more; None: never.
    """

    token_bytes: float
    windows: tuple[tuple[int, float], ...]
    state_bytes: float
    recent_bytes: float = 0.0
    outgrown: int | None = None

    @property
    def constant_bytes(self) -> float:
        """What a request takes besides `token_bytes` once it has outgrown every window."""
        return self.state_bytes + self.recent_bytes + sum(window * token for window, token in self.windows)

    def request_bytes(self, tokens: int) -> float:
        """Bytes of a request with `tokens` tokens in the cache."""
        windowed = sum(min(tokens, window) * token for window, token in self.windows)
        kept = tokens if self.outgrown is None else min(tokens, self.outgrown)
        return self.token_bytes * kept + windowed + self.state_bytes + self.recent_bytes


def kv_shape(stage: StageOperators) -> KVShape:
    """The cache of one rank of a stage; KV heads are copied where there are fewer of them than ranks."""
    token, state, recent = 0.0, 0.0, 0.0
    outgrown: int | None = None
    windows: dict[int, float] = {}
    for group in stage.layers:
        mixer, element, rule = group.attention.mixer, group.attention.cache_bytes, group.attention.kv
        if isinstance(mixer, StateSpace):
            state += group.count * state_numbers(mixer) * group.attention.dtype_bytes
            continue
        row = group.count * element * _row_numbers(mixer)
        if isinstance(mixer, Attention) and mixer.window:
            windows[mixer.window] = windows.get(mixer.window, 0.0) + row
        elif isinstance(mixer, Attention) and rule:
            older = group.count * _older_bytes(rule, mixer, element)
            token, outgrown = token + older, rule.outgrown
            recent += rule.recent * max(0.0, row - older)
        else:
            token += row
    return KVShape(token, tuple(sorted(windows.items())), state, recent, outgrown)


def _older_bytes(rule: KVCompression, mixer: Attention, element: float) -> float:
    """Of an older token in one layer on the device, those that are not kept counting as none."""
    stored = _row_numbers(mixer) * older_bytes(rule, element) if rule.tier == "device" else 0.0
    return rule.keep * (stored + mixer.kv_heads * index_bytes(rule))


def _row_numbers(mixer: Attention | LatentAttention) -> int:
    """Numbers a token leaves in the cache of one layer."""
    if isinstance(mixer, LatentAttention):
        return mixer.kv_lora_rank + mixer.qk_rope_head_dim
    return 2 * mixer.kv_heads * mixer.head_dim


def model_kv_shape(card: ModelCard, kv_cache_dtype: str = "auto", techniques: Techniques = NONE) -> KVShape:
    """The cache of the whole model, every number once: what travels when a request moves."""
    return kv_shape(with_techniques(stage_operators(card, Parallelism(), 0, kv_cache_dtype), card, techniques))
