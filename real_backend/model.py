"""A Llama-architecture model with random weights, built from any model card: the operators of `costmodels.shapes`, run.

The list of a card's operators (`stage_operators`) names every matrix and its size on one rank, so what is computed
here is what the cost models price. With `tensor_parallel_size` > 1 the model is one rank of so many, without its
collectives: right in shape and time, wrong in value.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from ..configs.model import Attention, DenseMLP, ModelCard, MoE, Parallelism, check_parallel
from ..costmodels.operators import Experts, Gemm, LayerOperators
from ..costmodels.shapes import stage_operators
from ..errors import InputError
from .batch import Batch, Shape
from .operators import HeadNorms, Operators, TorchOperators, TritonOperators, route
from .reference import rotary_table

KV_DTYPES = {"fp8": torch.float8_e4m3fn}
TORCH_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
_THETA = 500_000.0  # Llama 3's; what it is changes no time


def check_supported(card: ModelCard) -> None:
    """Raise InputError for a model that is not of the Llama architecture, dense or with experts, in 16 bits."""
    for group in card.groups:
        mixer, mlp = group.mixer, group.mlp
        if not isinstance(mixer, Attention):
            found = f"{card.name} has {type(mixer).__name__} layers"
        elif not isinstance(mlp, DenseMLP | MoE) or not mlp.gated or mlp.bias or card.positions:
            found = f"{card.name} has feed-forward blocks or positions of another kind than Llama's"
        elif isinstance(mlp, MoE) and mlp.shared_intermediate:
            found = f"{card.name} has shared experts"
        elif card.linear.bits not in (16, 32) or card.experts != card.linear:
            found = f"{card.name} stores its weights in {card.linear.bits:g} bits"
        else:
            continue
        expected = "a model of the Llama architecture with 16-bit weights: Llama, Mistral, Qwen, Mixtral"
        raise InputError("model", found, expected)


@dataclass
class Layer:
    """The weights and the part of the cache of one layer.

    matrices : by operator, (outputs, inputs), or (experts, outputs, inputs) for "up" and "down" of experts.
    """

    mixer: Attention  # this rank's heads
    mlp: DenseMLP | MoE
    norms: tuple[torch.Tensor, torch.Tensor]
    head_norms: HeadNorms
    matrices: dict[str, torch.Tensor]
    biases: dict[str, torch.Tensor]
    keys: torch.Tensor
    values: torch.Tensor


class Model:
    """Weights, a paged KV cache of `num_blocks` blocks, and the forward pass.

    operators : torch's, or the kernels where the device is a GPU. dtype : the card's unless another is given.
    cache_dtype : of the KV cache, that of the weights unless another is given.
    caches : layers with a cache of their own; further ones share those, which is good for timing only.
    cache : (2 x caches, num_blocks, numbers of a block): a layer's keys, its values, the next layer's keys, ...

    Raises InputError for a card that `check_supported` refuses, and for a head size that the kernels cannot tile.
    """

    def __init__(
        self,
        card: ModelCard,
        *,
        device: torch.device | str,
        num_blocks: int,
        block_size: int,
        tensor_parallel_size: int = 1,
        dtype: torch.dtype | None = None,
        cache_dtype: torch.dtype | None = None,
        caches: int | None = None,
        seed: int = 0,
        operators: Operators | None = None,
    ) -> None:
        check_supported(card)
        parallel = Parallelism(tensor_parallel_size)
        check_parallel(card, parallel)
        self.card, self.block_size = card, block_size
        self.device = torch.device(device)
        self.dtype = dtype or TORCH_DTYPES[card.dtype]
        self.operators = operators or (TritonOperators() if self.device.type == "cuda" else TorchOperators())
        self._generator = torch.Generator(self.device).manual_seed(seed)
        stage = stage_operators(card, parallel, 0)
        by_group = iter(stage.layers)
        groups = [next(by_group) for _ in card.groups]
        mixer = _mixer(groups[0])
        if isinstance(self.operators, TritonOperators):
            from .kernels.tuning import check_shape

            check_shape(mixer.head_dim, block_size, mixer.heads // mixer.kv_heads)
        if any(_mixer(group).kv_heads * _mixer(group).head_dim != mixer.kv_heads * mixer.head_dim for group in groups):
            raise InputError(
                "model", f"{card.name} caches more in some layers than in others", "layers with one KV shape"
            )
        numbers = mixer.kv_heads * block_size * mixer.head_dim
        planes = 2 * (caches or card.layers)
        self.cache = torch.zeros(planes, num_blocks, numbers, dtype=cache_dtype or self.dtype, device=self.device)
        self.layers = [self._layer(groups[group], i) for i, group in enumerate(card.order)]
        vocabulary = -(-card.vocab_size // tensor_parallel_size)
        self.embedding = self._matrix(vocabulary, card.hidden_size) * card.hidden_size**0.5
        self.norm = self._ones(card.hidden_size)
        self.head = self.embedding if card.tie_word_embeddings else self._matrix(vocabulary, card.hidden_size)
        self.angles = rotary_table(card.max_position_embeddings or 1 << 17, mixer.head_dim, _THETA, self.device)

    # -- weights -------------------------------------------------------------------------------------------------

    def _matrix(self, *shape: int) -> torch.Tensor:
        """Random weights that keep the size of what they multiply."""
        weights = torch.empty(*shape, dtype=self.dtype, device=self.device)
        return weights.normal_(std=shape[-1] ** -0.5, generator=self._generator)

    def _ones(self, size: int) -> torch.Tensor:
        return torch.ones(size, dtype=self.dtype, device=self.device)

    def _layer(self, group: LayerOperators, number: int) -> Layer:
        mixer = _mixer(group)
        keys, values = self._part(number, mixer)
        matrices, biases = {}, {}
        for operator in group.rows:
            if isinstance(operator, Gemm):
                matrices[operator.name] = self._matrix(operator.outputs, operator.inputs)
                if operator.bias:
                    biases[operator.name] = self._matrix(operator.outputs)
            elif isinstance(operator, Experts):
                matrices["up"] = self._matrix(operator.held, 2 * operator.intermediate, operator.hidden)
                matrices["down"] = self._matrix(operator.held, operator.hidden, operator.intermediate)
        mlp = self.card.groups[self.card.order[number]].mlp
        assert mlp is not None
        norms = self._ones(self.card.hidden_size), self._ones(self.card.hidden_size)
        head_norms = (self._ones(mixer.head_dim), self._ones(mixer.head_dim)) if mixer.head_norms else None
        return Layer(mixer, mlp, norms, head_norms, matrices, biases, keys, values)

    def with_cache(self, dtype: torch.dtype) -> Model:
        """The same weights with an empty cache of another number type, of as many blocks."""
        other = copy.copy(self)
        other.cache = torch.zeros_like(self.cache, dtype=dtype)
        other.layers = []
        for number, layer in enumerate(self.layers):
            keys, values = other._part(number, layer.mixer)
            other.layers.append(replace(layer, keys=keys, values=values))
        return other

    def _part(self, number: int, mixer: Attention) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a layer, (blocks, kv_heads, block_size, head_dim)."""
        plane = 2 * number % len(self.cache)
        shape = (-1, mixer.kv_heads, self.block_size, mixer.head_dim)
        return self.cache[plane].view(shape), self.cache[plane + 1].view(shape)

    # -- inputs --------------------------------------------------------------------------------------------------

    def shape(self) -> Shape:
        """What a batch for this model is made with."""
        windows = tuple(dict.fromkeys(layer.mixer.window for layer in self.layers))
        processors = 0
        if isinstance(self.operators, TritonOperators):
            from .kernels.tuning import processors as count

            processors = count(self.device)
        return Shape(self.block_size, self.layers[0].mixer.kv_heads, windows, processors, self.device)

    # -- the forward pass, operator by operator, under the names of `costmodels.shapes` -------------------------------

    @torch.no_grad()
    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits of the last row of each request: (requests, vocabulary)."""
        norm = self.operators.add_norm
        x, residual = self.embed(batch.tokens), None
        for layer in self.layers:
            x, residual = norm(x, residual, layer.norms[0])
            q = self.rotary_and_cache(layer, self.qkv_proj(layer, x), batch)
            x = self.o_proj(layer, self.attention(layer, q, batch))
            x, residual = norm(x, residual, layer.norms[1])
            if isinstance(layer.mlp, MoE):
                x = self.experts(layer, x, *self.router(layer, x))
            else:
                x = self.down_proj(layer, self.operators.silu_mul(self.gate_up_proj(layer, x)))
        x, _ = norm(x, residual, self.norm)
        return self.lm_head(x, batch.ends)

    def next_tokens(self, batch: Batch) -> torch.Tensor:
        """The likeliest next token of each request: (requests,) int64."""
        return self.operators.sample(self.forward(batch))

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Rows of the embedding table; of a rank's part of it, where the vocabulary is cut."""
        return F.embedding(tokens % len(self.embedding), self.embedding)

    def qkv_proj(self, layer: Layer, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, layer.matrices["qkv_proj"], layer.biases.get("qkv_proj"))

    def rotary_and_cache(self, layer: Layer, qkv: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The rotated queries (rows, heads, head_dim); keys and values go into the cache."""
        mixer = layer.mixer
        parts = qkv.view(len(qkv), -1, mixer.head_dim).split([mixer.heads, mixer.kv_heads, mixer.kv_heads], dim=1)
        q, key, value = parts
        return self.operators.rotary_and_cache(
            q, key, value, self.angles, layer.keys, layer.values, batch, layer.head_norms
        )

    def attention(self, layer: Layer, q: torch.Tensor, batch: Batch) -> torch.Tensor:
        """(rows, heads x head_dim)."""
        mixer = layer.mixer
        scale = mixer.head_dim**-0.5
        return self.operators.attention(q, layer.keys, layer.values, batch, scale, mixer.window).flatten(1)

    def o_proj(self, layer: Layer, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, layer.matrices["o_proj"], layer.biases.get("o_proj"))

    def gate_up_proj(self, layer: Layer, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, layer.matrices["gate_up_proj"])

    def down_proj(self, layer: Layer, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, layer.matrices["down_proj"])

    def router(self, layer: Layer, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(experts, weights) of each row."""
        assert isinstance(layer.mlp, MoE)
        return route(F.linear(x, layer.matrices["router"]), layer.mlp.top_k)

    def experts(self, layer: Layer, x: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return self.operators.experts(x, chosen, weights, layer.matrices["up"], layer.matrices["down"])

    def lm_head(self, x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        return F.linear(x[ends], self.head)

    # -- the cache -----------------------------------------------------------------------------------------------

    def save(self, table: Sequence[int]) -> torch.Tensor:
        """The contents of blocks, on the host: (blocks, 2 x layers, numbers of a block)."""
        ids = torch.tensor(table, dtype=torch.int64, device=self.device)
        return self.operators.gather(self.cache, ids).cpu()

    def restore(self, saved: torch.Tensor, table: Sequence[int]) -> None:
        """Put the contents of as many blocks back."""
        ids = torch.tensor(table, dtype=torch.int64, device=self.device)
        self.operators.scatter(saved.to(self.device), self.cache, ids)


def _mixer(group: LayerOperators) -> Attention:
    assert isinstance(group.attention.mixer, Attention)
    return group.attention.mixer
