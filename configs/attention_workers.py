"""Accelerators of another kind that hold a pool's KV caches and compute its attention (Lamina)."""

from __future__ import annotations

from dataclasses import dataclass

from .strict import check


@dataclass(frozen=True)
class AttentionWorkers:
    """Beside every replica's own accelerators, which then hold the weights only.

    hardware : their card. count : a replica's; the KV heads are split over them.
    bandwidth, latency : of each accelerator's link to the other side, bytes/s achieved and seconds a message (45.7 GB/s
        and 33 us in Lamina over 400 Gb/s).
    price_per_hour : USD for one; None: as the card says.
    """

    hardware: str
    count: int
    bandwidth: float = 45.7e9
    latency: float = 33e-6
    price_per_hour: float | None = None

    def __post_init__(self) -> None:
        check(self.count >= 1, "count", self.count, "at least 1")
        check(self.bandwidth > 0, "bandwidth", self.bandwidth, "bytes/s above 0")
        check(self.latency >= 0, "latency", self.latency, "seconds, not negative")
        price = self.price_per_hour
        check(price is None or price >= 0, "price_per_hour", price, "USD, not negative")
