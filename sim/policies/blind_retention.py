"""What retention policies share that learn nothing from what they see."""

from __future__ import annotations


class BlindRetention:
    """Told everything, it remembers nothing."""

    forgets = False

    def observe_gap(self, tool: str, gap: float) -> None:
        """Nothing to note."""

    def observe_wait(self, wait: float) -> None:
        """Nothing to note."""

    def observe_end(self, turns: int) -> None:
        """Nothing to note."""
