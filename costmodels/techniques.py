"""Techniques put on the operators of a stage: the same layers with other bytes and operations."""

from __future__ import annotations

from dataclasses import replace

from ..configs.compression import KVCompression
from ..configs.model import Attention, Mixer, ModelCard
from ..configs.techniques import Techniques
from ..errors import InputError
from .operators import LayerOperators, StageOperators


def with_techniques(stage: StageOperators, card: ModelCard, techniques: Techniques) -> StageOperators:
    """The stage as it runs with `techniques`. Raises InputError where one does not fit the model."""
    rule = techniques.compression
    if rule:
        _check_compression(card, rule)
        stage = replace(stage, layers=tuple(_compressed(group, rule) for group in stage.layers))
    return stage


def _compressed(group: LayerOperators, rule: KVCompression) -> LayerOperators:
    return replace(group, attention=replace(group.attention, kv=rule)) if _grows(group.attention.mixer) else group


def _grows(mixer: Mixer) -> bool:
    """Whether the layer keeps keys and values of the whole context."""
    return isinstance(mixer, Attention) and mixer.window is None


def _check_compression(card: ModelCard, rule: KVCompression) -> None:
    if not any(_grows(group.mixer) for group in card.groups):
        found = f"{rule.name}, and no layer of {card.name} keeps keys and values of its whole context"
        raise InputError("techniques.kv", found, "a model with attention heads that do, or no compression")
