"""Techniques put on the operators of a stage: the same layers with other bytes and operations."""

from __future__ import annotations

from dataclasses import replace

from ..configs.compression import KVCompression
from ..configs.model import Attention, Mixer, ModelCard
from ..configs.techniques import NONE, Paging, Techniques
from ..errors import InputError
from .operators import LayerOperators, StageOperators


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
    return replace(stage, layers=tuple(_changed(group, techniques) for group in stage.layers))


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
