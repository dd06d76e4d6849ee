"""Techniques put on the operators of a stage: the same layers with other bytes and operations."""

from __future__ import annotations

from dataclasses import replace

from ..configs.compression import KVCompression
from ..configs.model import Attention, Mixer, ModelCard
from ..configs.techniques import NONE, Paging, Techniques
from ..errors import InputError
from .operators import Experts, Gemm, LayerOperators, Move, StageOperators


def with_techniques(stage: StageOperators, card: ModelCard, techniques: Techniques) -> StageOperators:
    """The stage as it runs with `techniques`. Raises InputError where one does not fit the model."""
    if techniques == NONE:
        return stage
    rule = techniques.compression
    if rule:
        _check_compression(card, rule)
    if rule and techniques.shared_prefix:
        found = f"given with kv: {rule.name}"
        raise InputError("techniques.shared_prefix", found, "one of the two: they are not modelled together")
    stage = replace(stage, layers=tuple(_changed(group, techniques) for group in stage.layers))
    executed = techniques.layers
    if executed is None:
        return stage
    if techniques.speculation:
        raise InputError(
            "techniques.layers", "given with speculation", "one of the two: they are not modelled together"
        )
    if executed.mlp_share < 1:
        stage = replace(stage, layers=tuple(_narrow(group, executed.mlp_share, card) for group in stage.layers))
    return fewer_layers(stage, executed.share) if executed.kv == "absent" else stage


def fewer_layers(stage: StageOperators, share: float) -> StageOperators:
    """The stage with a share of each group's layers, one at least."""
    kept = (replace(group, count=max(1, round(share * group.count))) for group in stage.layers)
    return replace(stage, layers=tuple(kept))


_FEED_FORWARD = ("gate_up_proj", "up_proj", "activation", "down_proj")


def _narrow(group: LayerOperators, share: float, card: ModelCard) -> LayerOperators:
    """The layer with so many columns of its feed-forward block."""
    rows = list(group.rows)
    for i, operator in enumerate(rows):
        if isinstance(operator, Experts):
            found = f"{share:g}, and the feed-forward blocks of {card.name} are experts"
            raise InputError("techniques.layers.mlp_share", found, "a model with dense blocks")
        if operator.name not in _FEED_FORWARD:
            continue
        if isinstance(operator, Move):
            rows[i] = replace(operator, row_bytes=operator.row_bytes * share)
        elif isinstance(operator, Gemm) and operator.name == "down_proj":
            rows[i] = replace(operator, inputs=max(1, round(operator.inputs * share)))
        elif isinstance(operator, Gemm):
            rows[i] = replace(operator, outputs=max(1, round(operator.outputs * share)))
    return replace(group, rows=tuple(rows))


def _changed(group: LayerOperators, techniques: Techniques) -> LayerOperators:
    call = group.attention
    if _grows(call.mixer):
        call = replace(call, kv=techniques.compression, shared=techniques.shared_prefix)
    paging = techniques.paging or Paging()
    call = replace(call, decode_factor=paging.decode_factor, prefill_factor=paging.prefill_factor)
    return replace(group, attention=call)


def _grows(mixer: Mixer) -> bool:
    """Whether the layer keeps keys and values of the whole context."""
    return isinstance(mixer, Attention) and mixer.window is None


def _check_compression(card: ModelCard, rule: KVCompression) -> None:
    if not any(_grows(group.mixer) for group in card.groups):
        found = f"{rule.name}, and no layer of {card.name} keeps keys and values of its whole context"
        raise InputError("techniques.kv", found, "a model with attention heads that do, or no compression")


def page_tokens(stage: StageOperators, page_group_bytes: int) -> int:
    """Tokens of keys of one layer that fit into a group of pages on one rank (vAttention).

    Raises InputError where a layer keeps anything but keys and values of its whole context, or no token fits.
    """
    sizes = set()
    for group in stage.layers:
        mixer, call = group.attention.mixer, group.attention
        if not isinstance(mixer, Attention) or mixer.window is not None or call.kv:
            raise InputError("techniques.paging.page_group_bytes", "given", "layers with whole keys and values only")
        sizes.add(int(mixer.kv_heads * mixer.head_dim * call.cache_bytes))
    tokens = page_group_bytes // max(sizes)
    if tokens < 1:
        found = f"{page_group_bytes}, and the keys of a token take {max(sizes)}"
        raise InputError("techniques.paging.page_group_bytes", found, "room for a token at least")
    return tokens
