"""The operators of a model as points of a grid, and the calls that measure a point.

A call is the model's own method on rows of random numbers; the calls of a point go through the layers, so that their
weights and caches, together larger than the device's cache, are read from memory as in an iteration. Activations stay
where an iteration would find them: in the cache, if they fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch

from ..configs.model import ModelCard, MoE, Parallelism
from ..costmodels.operators import Gemm
from ..costmodels.shapes import stage_operators
from ..real_backend.batch import Batch, Row, make_batch
from ..real_backend.model import Layer, Model
from .grids import Grid, spread
from .journal import Point
from .timer import Call

_CACHES = 4  # layers hold at least so many times the device's cache
_MOST_LAYERS = 16


class DoesNotFit(Exception):
    """A point needs more of the KV cache than there is."""


def truncated(card: ModelCard, cache_bytes: int, tp: int = 1) -> ModelCard:
    """The card with so many layers that any one of their matrices, of all layers, is several times the device's cache
    (or with the most that are worth their memory), and at least one of every group."""
    stage = stage_operators(card, Parallelism(tp), 0)
    smallest = min(op.weight_bytes for group in stage.layers for op in group.rows if isinstance(op, Gemm))
    wanted = min(_MOST_LAYERS, int(_CACHES * cache_bytes // smallest) + 1)
    order = list(card.order)
    while len(order) > wanted and set(order[:-1]) == set(card.order):
        order.pop()
    groups = tuple(replace(group, count=order.count(i)) for i, group in enumerate(card.groups))
    return replace(card, order=tuple(order), groups=groups)


class Operators:
    """The points of one model on one device. tp : the degree its shapes are one rank's of."""

    def __init__(self, model: Model, grid: Grid, tp: int) -> None:
        self.model, self.grid, self.tp = model, grid, tp
        self._shape = model.shape()
        self._blocks = torch.randperm(model.cache.shape[1]).tolist()  # requests' blocks lie anywhere
        mixer = model.layers[0].mixer
        self._attention = {
            "dtype": _name(model.dtype), "kv_dtype": _name(model.cache.dtype), "heads": mixer.heads,
            "kv_heads": mixer.kv_heads, "head_dim": mixer.head_dim,
        }  # fmt: skip
        self.kv_dtype = self._attention["kv_dtype"]
        self._moe = any(isinstance(layer.mlp, MoE) for layer in model.layers)

    # -- the grid ------------------------------------------------------------------------------------------------

    def points(self) -> Iterator[Point]:
        """The grid's points, coarse ones first in each kind."""
        for (tokens,) in spread(self.grid.tokens):
            for name in self.token_operators():
                yield self.layer_point(name, tokens)
        for (sequences,) in spread(self.grid.sequences):
            for name in ("lm_head", "sampler"):
                yield Point("sequence", {"operator": name, "tp": self.tp, "sequences": sequences})
        yield from self.attention_points()

    def attention_points(self) -> Iterator[Point]:
        """Those of attention alone; calls with too much context for the grid are left out."""
        decode, prefill, most = self.grid.decode, self.grid.prefill, self.grid.attention_tokens
        for window in self._shape.windows:
            labels = {**self._attention, "window": window or 0}
            for batch, context in spread(decode.batch, decode.context):
                if batch * context <= most:
                    yield Point("decode_attention", {**labels, "batch": batch, "context": context})
            for chunk, context in spread(prefill.chunk, prefill.context):
                if chunk + context <= most:
                    yield Point("prefill_attention", {**labels, "batch": 1, "chunk": chunk, "context": context})
            for chunk, batch in spread(prefill.chunk, prefill.batch) if prefill.batch else ():
                if chunk * batch <= min(most, self.grid.tokens[-1]):
                    yield Point("prefill_attention", {**labels, "batch": batch, "chunk": chunk, "context": 0})

    def token_operators(self) -> tuple[str, ...]:
        """The operators that run for every token, as `costmodels.shapes` names them; its norms are one kernel."""
        dense = any(not isinstance(layer.mlp, MoE) for layer in self.model.layers)
        feed_forward = ("gate_up_proj", "activation", "down_proj") if dense else ()
        experts = ("router", "experts") if self._moe else ()
        return ("embedding", "norm", "qkv_proj", "rotary_and_cache", "o_proj", *feed_forward, *experts)

    def layer_point(self, name: str, tokens: int) -> Point:
        return Point("layer", {"operator": name, "tp": self.tp, "tokens": tokens})

    # -- calls ---------------------------------------------------------------------------------------------------

    def calls(self, point: Point) -> list[Call]:
        """What to time for a point. Raises DoesNotFit."""
        keys = point.keys
        if point.kind == "layer":
            return self._token_calls(keys["operator"], keys["tokens"])
        if point.kind == "sequence":
            return self._sequence_calls(keys["operator"], keys["sequences"])
        if point.kind == "decode_attention":
            return self._attention_calls(self.batch([], [keys["context"]] * keys["batch"]), keys["window"])
        chunks = [(keys["chunk"], keys["context"])] * keys["batch"]
        return self._attention_calls(self.batch(chunks, []), keys["window"])

    def batch(self, chunks: list[tuple[int, int]], decodes: list[int]) -> Batch:
        """An iteration of chunks (tokens, context) and decodes (context), its blocks taken from anywhere."""
        size, free = self.model.block_size, iter(self._blocks)
        rows = []
        for tokens, context in [*chunks, *((1, context) for context in decodes)]:
            table = [block for block, _ in zip(free, range(-(-(tokens + context) // size)), strict=False)]
            if len(table) * size < tokens + context:
                raise DoesNotFit(f"{len(self._blocks)} KV blocks of {size} tokens are not enough")
            rows.append(Row([0] * tokens, context, table))
        return make_batch(rows[: len(chunks)], rows[len(chunks) :], self._shape)

    def _rows(self, rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, device=self.model.device).to(self.model.dtype)

    def _token_calls(self, name: str, tokens: int) -> list[Call]:
        model = self.model
        hidden = model.card.hidden_size
        if name == "embedding":
            ids = torch.randint(model.card.vocab_size, (tokens,), device=model.device)
            return [partial(model.embed, ids)]
        if name == "norm":
            x, residual = self._rows(tokens, hidden), self._rows(tokens, hidden)
            return [partial(model.operators.add_norm, x, residual, layer.norms[0]) for layer in model.layers]
        return self._per_layer(self._layer_operator(name, tokens), name)

    def _layer_operator(self, name: str, tokens: int) -> Callable[[Layer], Call]:
        """The call of an operator in a layer."""
        model, mixer = self.model, self.model.layers[0].mixer
        x = self._rows(tokens, model.card.hidden_size)
        if name == "rotary_and_cache":
            batch = self.batch([(tokens, 0)], [])
            qkv = self._rows(tokens, (mixer.heads + 2 * mixer.kv_heads) * mixer.head_dim)
            return lambda layer: partial(model.rotary_and_cache, layer, qkv, batch)
        if name == "o_proj":
            mixed = self._rows(tokens, mixer.heads * mixer.head_dim)
            return lambda layer: partial(model.o_proj, layer, mixed)
        if name == "activation":
            return lambda layer: self._activation(layer, tokens)
        if name == "down_proj":
            return lambda layer: self._down(layer, tokens)
        if name == "experts":
            return lambda layer: self._experts(layer, x)
        method = getattr(model, name)
        return lambda layer: partial(method, layer, x)

    def _per_layer(self, call: Callable[[Layer], Call], name: str) -> list[Call]:
        needs = {"router": "router", "experts": "router", "activation": "gate_up_proj"}.get(name, name)
        having = [layer for layer in self.model.layers if needs == "rotary_and_cache" or needs in layer.matrices]
        return [call(layer) for layer in having]

    def _activation(self, layer: Layer, tokens: int) -> Call:
        wide = self._rows(tokens, len(layer.matrices["gate_up_proj"]))
        return partial(self.model.operators.silu_mul, wide)

    def _down(self, layer: Layer, tokens: int) -> Call:
        x = self._rows(tokens, layer.matrices["down_proj"].shape[1])
        return partial(self.model.down_proj, layer, x)

    def _experts(self, layer: Layer, x: torch.Tensor) -> Call:
        chosen, weights = self.model.router(layer, x)
        return partial(self.model.experts, layer, x, chosen, weights)

    def _sequence_calls(self, name: str, sequences: int) -> list[Call]:
        model = self.model
        if name == "lm_head":
            x, ends = self._rows(sequences, model.card.hidden_size), torch.arange(sequences, device=model.device)
            return [partial(model.lm_head, x, ends)]
        logits = self._rows(sequences, len(model.head))
        return [partial(model.operators.sample, logits)]

    def _attention_calls(self, batch: Batch, window: int) -> list[Call]:
        model, mixer = self.model, self.model.layers[0].mixer
        qkv = self._rows(len(batch.tokens), (mixer.heads + 2 * mixer.kv_heads) * mixer.head_dim)
        q = qkv.view(len(qkv), -1, mixer.head_dim)[:, : mixer.heads]  # as the projection leaves it
        layers = [layer for layer in model.layers if (layer.mixer.window or 0) == window]
        return [partial(model.attention, layer, q, batch) for layer in layers]


def _name(dtype: torch.dtype) -> str:
    names = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.float8_e4m3fn: "fp8"}
    return names[dtype]
