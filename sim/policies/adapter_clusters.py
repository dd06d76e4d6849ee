"""Queue policy: S-LoRA's clustering (MLSys'24): requests for adapters that are in use go first.

A batch then holds few. Fewer distinct adapters make iterations shorter; who asks for a rare one waits longer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..core import FOREVER, RankView, Request, Step
from .live_order import LiveOrder


@dataclass
class AdapterClusters(LiveOrder):
    """Among those whose adapter is in use, and among the others, order of arrival."""

    def order(self, requests: Iterable[Request], view: RankView) -> list[Request]:
        """Adapters in use first: they take no blocks."""
        return sorted(requests, key=lambda r: view.lookup(r, {})[1] > 0)

    def stands(self, step: Step, view: RankView) -> int:
        """Which adapters are in use changes with admissions and ends only."""
        return FOREVER
