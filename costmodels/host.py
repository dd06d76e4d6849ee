"""Time that the host spends on an iteration: scheduling, preparing inputs, taking tokens back."""

from __future__ import annotations

from dataclasses import dataclass

from ..configs.strict import check
from .base import ticks


@dataclass(frozen=True)
class HostOverhead:
    """Seconds of host time an iteration needs, each constant + per sequence.

    seconds, seconds_per_sequence : while the accelerator waits; an iteration takes so much more.
    hidden_seconds, hidden_seconds_per_sequence : while the accelerator computes (asynchronous scheduling prepares the
        next iteration meanwhile); an iteration takes no less.

    An assumption until `servecast profile` measures it, and a property of an engine version, so engine presets give the
    numbers; the default, 0, is kernel time alone. Published values: simdistserve adds 2 ms and 0.1 us a token for a Ray
    engine; vLLM before version 1 spent 2 to 30 ms at large batches.
    """

    seconds: float = 0.0
    seconds_per_sequence: float = 0.0
    hidden_seconds: float = 0.0
    hidden_seconds_per_sequence: float = 0.0

    def __post_init__(self) -> None:
        for key, value in vars(self).items():
            check(value >= 0, key, value, "seconds, not negative")

    @property
    def hides(self) -> bool:
        """Whether any of it is hidden behind the accelerator's work."""
        return self.hidden_seconds > 0 or self.hidden_seconds_per_sequence > 0

    def added(self, sequences: int) -> int:
        """Ticks that an iteration takes on top of the accelerator's."""
        return ticks(self.seconds + self.seconds_per_sequence * sequences)

    def least(self, sequences: int) -> int:
        """Ticks that the accelerator's part of an iteration takes at least."""
        return ticks(self.hidden_seconds + self.hidden_seconds_per_sequence * sequences)
