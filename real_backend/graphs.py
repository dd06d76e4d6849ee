"""CUDA graphs of decode iterations: one a batch size, captured once, replayed with new inputs in the same memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .batch import Batch, Row, make_batch
from .model import Model

_WARM_UP = 3  # passes before a capture: compilation and the choice of configurations must not be captured


class DecodeGraphs:
    """Decodes alone, padded to the next captured size.

    sizes : batch sizes to capture, rising. table_blocks : KV blocks of the longest request.
    """

    def __init__(self, model: Model, sizes: Sequence[int], table_blocks: int) -> None:
        self._model, self._blocks, self.sizes = model, table_blocks, tuple(sizes)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Batch, torch.Tensor]] = {}
        pool = None
        for size in sorted(sizes, reverse=True):  # the largest first: the others find their memory in its pool
            graph, batch, out = self._capture(size, pool)
            self._graphs[size] = graph, batch, out
            pool = pool or graph.pool()

    def _capture(self, size: int, pool: Any) -> tuple[torch.cuda.CUDAGraph, Batch, torch.Tensor]:
        model = self._model
        batch = self._batch([Row((0,), 0, (0,))], size)  # its write to block 0 precedes any real one
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                model.next_tokens(batch)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            out = model.next_tokens(batch)
        return graph, batch, out

    def _batch(self, decodes: Sequence[Row], size: int) -> Batch:
        return make_batch((), decodes, self._model.shape(), size - len(decodes), self._blocks)

    def fits(self, decodes: int) -> bool:
        """Whether a captured batch is large enough."""
        return bool(self.sizes) and decodes <= self.sizes[-1]

    def prepare(self, decodes: Sequence[Row]) -> Batch:
        """The inputs, in the memory of the least graph that holds so many decodes."""
        size = next(size for size in self.sizes if size >= len(decodes))
        batch, new = self._graphs[size][1], self._batch(decodes, size)
        for name in ("tokens", "positions", "slots", "tables"):
            getattr(batch, name).copy_(getattr(new, name), non_blocking=True)
        for window, pieces in batch.pieces.items():
            pieces.copy_(new.pieces[window])
        return batch

    def replay(self, batch: Batch) -> torch.Tensor:
        """The next token of each row of a batch from `prepare`, on the device."""
        graph, _, out = self._graphs[len(batch.ends)]
        graph.replay()
        return out
