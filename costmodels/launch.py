"""How an engine launches kernels: batches padded to captured CUDA graphs, and the device's waits between kernels."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from ..configs.strict import check
from .base import Chunk, Piece, StageCost, ticks
from .host import HostOverhead


@dataclass(frozen=True)
class Launch:
    """What an engine does to keep the accelerator fed, and where it does not succeed.

    max_cudagraph_capture_size : tokens of the largest batch that runs as a captured graph, padded to the next size
        captured; 0: none does.
    prompts_in_graphs : whether batches with prompts may be graphs (vLLM's piecewise ones), or decodes alone.
    kernel_seconds : host time to launch one operator outside a graph; such a batch takes at least that for each
        (eager mode).
    gap_seconds_per_kernel : the device's wait after each kernel of an iteration with prompt parts. Decodes alone run as
        one graph, without waits; with prompts, attention is launched by itself between pieces of the graph.
    gap_seconds_per_sequence : a request's part of the waits between two iterations (its inputs, its sampled token).
    """

    max_cudagraph_capture_size: int = 0
    prompts_in_graphs: bool = True
    kernel_seconds: float = 0.0
    gap_seconds_per_kernel: float = 0.0
    gap_seconds_per_sequence: float = 0.0

    def __post_init__(self) -> None:
        size = self.max_cudagraph_capture_size
        check(size >= 0, "max_cudagraph_capture_size", size, "tokens, not negative")
        for key in ("kernel_seconds", "gap_seconds_per_kernel", "gap_seconds_per_sequence"):
            check(getattr(self, key) >= 0, key, getattr(self, key), "seconds, not negative")
        object.__setattr__(self, "_sizes", captured_sizes(size))

    def graph(self, tokens: int, prompts: bool) -> int | None:
        """The size of the graph that a batch of `tokens` tokens runs in, None where it runs without one."""
        sizes: list[int] = self._sizes  # type: ignore[attr-defined]
        if not sizes or tokens > sizes[-1] or (prompts and not self.prompts_in_graphs):
            return None
        return sizes[bisect_left(sizes, tokens)]

    def kernels_alone(self) -> Launch:
        """The same graphs without the waits, for what is not an iteration's time: joules, or some operators."""
        return Launch(self.max_cudagraph_capture_size, self.prompts_in_graphs)


def captured_sizes(largest: int) -> list[int]:
    """vLLM's sizes: 1, 2, 4, multiples of 8 below 256 and of 16 from there, up to `largest`
    (vllm-project/vllm `vllm/config/vllm.py`, 2025)."""
    sizes = [size for size in (1, 2, 4) if size <= largest]
    return sizes + list(range(8, min(largest + 1, 256), 8)) + list(range(256, largest + 1, 16))


class Fed:
    """A stage whose iterations take no less than the host needs to keep it fed: to launch each of `operators` where
    the batch runs without a graph, and to prepare the next batch where it does so meanwhile."""

    def __init__(self, stage: StageCost, operators: int, launch: Launch, host: HostOverhead) -> None:
        self._stage, self._launch, self._host = stage, launch, host
        self._eager = ticks(operators * launch.kernel_seconds)

    def piece(
        self, chunks: Sequence[Chunk], decodes: int, context_sum: int, context_min: int, context_max: int
    ) -> Piece:
        """See `StageCost.piece`."""
        base, slope, valid, outside = self._stage.piece(chunks, decodes, context_sum, context_min, context_max)
        least = self._host.least(decodes + len(chunks))
        if self._eager > least:
            tokens = decodes + sum([tokens for tokens, _ in chunks])
            if self._launch.graph(tokens, bool(chunks)) is None:
                least = self._eager
        if base < least:
            reaches = (least - base) // slope + 1 if slope > 0 else valid  # the last iteration that is still shorter
            return least, 0, min(valid, reaches), outside
        if slope < 0:
            valid = min(valid, (base - least) // -slope + 1)
        return base, slope, valid, outside


def fed(stage: StageCost, operators: int, launch: Launch, host: HostOverhead) -> StageCost:
    """The stage with what the host sets as its least time, if that is anything."""
    return Fed(stage, operators, launch, host) if host.hides or launch.kernel_seconds else stage
