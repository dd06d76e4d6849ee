"""Bytes and seconds to move KV cache: between replicas, and between accelerator and host."""

from __future__ import annotations

from ..configs.device import HardwareCard, Link
from ..configs.model import ModelCard
from .collectives import point_to_point
from .shapes import model_kv_shape


def kv_transfer_bytes(card: ModelCard, tokens: int, kv_cache_dtype: str = "auto") -> int:
    """Bytes of the KV cache of one request with `tokens` tokens: every number once, windows and states included."""
    return round(model_kv_shape(card, kv_cache_dtype).request_bytes(tokens))


def transfer_seconds(size: float, link: Link, *, ranks: int = 1, share: float = 1.0) -> float:
    """Seconds to send `size` bytes, cut evenly over the own links of `ranks` accelerators that send at the same time.

    share : achieved share of the link's bandwidth (`HardwareCard.achieved.link`).
    """
    return point_to_point(link, size / ranks, share)


def swap_seconds(size: float, hardware: HardwareCard, *, ranks: int = 1) -> float:
    """Seconds to move `size` bytes of KV cache between the accelerators of a replica and their host, one way."""
    return transfer_seconds(size, hardware.host, ranks=ranks, share=hardware.achieved.link)
