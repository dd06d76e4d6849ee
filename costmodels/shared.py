"""Times of two batches that share an accelerator: fewer multiprocessors each, and one memory.

Source: Nexus, "Proactive Intra-GPU Disaggregation of Prefill and Decode in LLM Serving" (2025). An operator takes the
longer of its arithmetic at its share of the multiprocessors and its memory traffic; both saturate. Where the two
batches together would draw more than the memory gives, each gets in proportion to what it would draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from ..configs.device import HardwareCard
from ..configs.streams import Streams
from .base import Chunk, StageCost
from .composed import ComposedCost
from .stage import Memory

_GRID = 20  # shares and contention are priced in steps of 1 / 20


class Composition(NamedTuple):
    """What a batch computes, as `StageCost.piece` takes it."""

    chunks: Sequence[Chunk]
    decodes: int
    context_sum: int
    context_min: int
    context_max: int


class SharedTimes:
    """Ticks of batches at shares. price : the cost model of the pool on any hardware."""

    def __init__(self, price: Callable[[HardwareCard], ComposedCost], hardware: HardwareCard, streams: Streams) -> None:
        self._price, self._hardware, self._streams = price, hardware, streams
        self._stages: Memory[tuple[int, int, bool], StageCost] = Memory(partial(_stage, self))

    def stage(self, share: int, memory: int, arithmetic: bool) -> StageCost:
        """The stage at so many twentieths of the multiprocessors and of the bandwidth that these can draw."""
        part = share / _GRID
        faster = min(1.0, part / self._streams.compute_saturation) if arithmetic else 1e6
        drawn = min(1.0, part / self._streams.bandwidth_saturation) * memory / _GRID
        card = replace(
            self._hardware, memory_bandwidth=self._hardware.memory_bandwidth * drawn,
            flops={kind: peak and peak * faster for kind, peak in self._hardware.flops.items()},
        )  # fmt: skip
        return self._price(card).stages[0]

    def alone(self, batch: Composition) -> int:
        """Ticks with nobody else there."""
        return self._stages[_GRID, _GRID, True].piece(*batch)[0]

    def together(self, first: Composition, second: Composition, share: float) -> tuple[int, int]:
        """Ticks of two batches if the other one were there all the time, the first on `share` of the SMs."""
        mine = min(_GRID - 1, max(1, round(share * _GRID)))
        shares = ((first, mine), (second, _GRID - mine))
        drawn = sum(self._draw(batch, part) for batch, part in shares)
        memory = max(1, round(_GRID / max(1.0, drawn)))
        one, two = (self._stages[part, memory, True].piece(*batch)[0] for batch, part in shares)
        return one, two

    def _draw(self, batch: Composition, share: int) -> float:
        """The share of the whole memory bandwidth that a batch draws while it runs alone on its share of the SMs."""
        whole = self._stages[_GRID, _GRID, False].piece(*batch)[0]
        return whole / self._stages[share, _GRID, True].piece(*batch)[0]


def _stage(times: SharedTimes, key: tuple[int, int, bool]) -> StageCost:
    return times.stage(*key)
