"""Time that the host spends on an iteration: scheduling, preparing inputs, taking tokens back."""

from __future__ import annotations

from dataclasses import dataclass

from ..configs.strict import check
from .base import ticks


@dataclass(frozen=True)
class HostOverhead:
    """Seconds of host time an iteration needs: constant + per sequence.

    overlapped : the host prepares the next iteration while the accelerator computes this one (asynchronous scheduling);
        an iteration then takes no less than this time, and otherwise so much more.

    An assumption until `servecast profile` measures it, and a property of an engine version, so engine presets give the
    numbers; the default, 0, is kernel time alone. Published values: simdistserve adds 2 ms and 0.1 us a token for a Ray
    engine; vLLM before version 1 spent 2 to 30 ms at large batches.
    """

    seconds: float = 0.0
    seconds_per_sequence: float = 0.0
    overlapped: bool = False

    def __post_init__(self) -> None:
        for key in ("seconds", "seconds_per_sequence"):
            check(getattr(self, key) >= 0, key, getattr(self, key), "seconds, not negative")

    def added(self, sequences: int) -> int:
        """Ticks that an iteration takes on top of the accelerator's."""
        return 0 if self.overlapped else self._ticks(sequences)

    def least(self, sequences: int) -> int:
        """Ticks that an iteration takes at least."""
        return self._ticks(sequences) if self.overlapped else 0

    def _ticks(self, sequences: int) -> int:
        return ticks(self.seconds + self.seconds_per_sequence * sequences)
