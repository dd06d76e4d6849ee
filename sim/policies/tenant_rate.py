"""Admission: a token bucket for every tenant, over prompt tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...configs.strict import check
from ..core import ReplicaView, Request

_TICKS = 1 << 36  # of the clock, a second


@dataclass
class TenantRate:
    """rate : prompt tokens a second. burst : tokens that a bucket holds; a longer prompt takes a full one."""

    rate: int
    burst: int

    def __post_init__(self) -> None:
        check(self.rate >= 1, "rate", self.rate, "at least 1 token a second")
        check(self.burst >= 1, "burst", self.burst, "at least 1 token")
        self._empty_until: dict[int, int] = {}  # by tenant: the tick at which its bucket would be full, in whole ticks

    def admit(self, request: Request, views: Sequence[ReplicaView], now: int) -> bool:
        """Whether the tenant's bucket has the tokens; it then pays."""
        full_at = max(now, self._empty_until.get(request.tenant, now))
        price = min(request.prompt_tokens, self.burst) * _TICKS // self.rate
        if full_at + price > now + self.burst * _TICKS // self.rate:
            return False
        self._empty_until[request.tenant] = full_at + price
        return True
