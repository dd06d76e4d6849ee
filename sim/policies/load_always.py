"""Load policy: what a tier has is loaded, as by vLLM's connectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..keep.tiers import Found


@dataclass
class LoadAlways:
    """As it is stored."""

    def compression(self, found: Found) -> float:
        """Once."""
        return 1.0
