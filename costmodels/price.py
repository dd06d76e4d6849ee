"""What accelerators cost: an hour, and a million tokens."""

from __future__ import annotations

from ..configs.device import HardwareCard
from ..errors import InputError


def price_per_hour(hardware: HardwareCard, accelerators: int) -> float:
    """USD an hour of `accelerators` devices, at the card's list-price assumption."""
    if hardware.price_per_hour is None:
        raise InputError("price_per_hour", f"not known for {hardware.name}", "USD an hour for one accelerator")
    return hardware.price_per_hour * accelerators


def price_per_million_tokens(usd_per_hour: float, tokens_per_second: float) -> float:
    """USD for a million tokens at a steady `tokens_per_second`."""
    return usd_per_hour / (tokens_per_second * 3600) * 1e6
