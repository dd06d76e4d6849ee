"""How an engine launches kernels: batches padded to captured CUDA graphs, and the host's time where there are none."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from ..configs.strict import check


@dataclass(frozen=True)
class Launch:
    """max_cudagraph_capture_size : tokens of the largest batch that runs as a captured graph, padded to the next size
    captured; 0: none does. kernel_seconds : host time to launch one kernel; a batch without a graph takes at least that
    for each of its kernels (eager mode).
    """

    max_cudagraph_capture_size: int = 0
    kernel_seconds: float = 0.0

    def __post_init__(self) -> None:
        size, seconds = self.max_cudagraph_capture_size, self.kernel_seconds
        check(size >= 0, "max_cudagraph_capture_size", size, "tokens, not negative")
        check(seconds >= 0, "kernel_seconds", seconds, "seconds, not negative")
        object.__setattr__(self, "_sizes", _captured(size))

    def graph(self, tokens: int) -> int | None:
        """The size of the graph that a batch of `tokens` tokens runs in, None where it runs without one."""
        sizes: list[int] = self._sizes  # type: ignore[attr-defined]
        return sizes[bisect_left(sizes, tokens)] if sizes and tokens <= sizes[-1] else None


def _captured(largest: int) -> list[int]:
    """vLLM's sizes: 1, 2, 4, multiples of 8 below 256 and of 16 from there, up to `largest`
    (vllm-project/vllm `vllm/config/vllm.py`, 2025)."""
    sizes = [size for size in (1, 2, 4) if size <= largest]
    return sizes + list(range(8, min(largest + 1, 256), 8)) + list(range(256, largest + 1, 16))
