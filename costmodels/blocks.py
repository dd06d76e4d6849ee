"""What models cost that share layers: one batch in the layers they have in common, one a model in their own.

Source: BlockLLM (2024): models tuned from one base are cut into blocks, and equal blocks exist once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..configs.sharing import SharedBlocks
from ..errors import InputError
from .base import ticks
from .composed import ComposedCost
from .operators import Collective
from .shapes import weight_bytes


class BlockCost:
    """Of one replica, on one of its tensor-parallel ranks. Layers count as the mean layer of the model.

    models : how many there are.
    """

    def __init__(self, blocks: SharedBlocks, cost: ComposedCost, models: int) -> None:
        layers = cost.model.layers
        if blocks.private_layers > layers:
            found = f"{blocks.private_layers}, and {cost.model.name} has {layers} layers"
            raise InputError("blocks.private_layers", found, f"at most {layers}")
        self.blocks, self._cost, self._models = blocks, cost, models
        self._stage = cost.operators[0]
        self._rows: dict[int, float] = {}
        self._known: dict[tuple[int, ...], int] = {}
        calls = (group.count * cost.times.attention(group.attention)[0] for group in self._stage.layers)
        self._call = sum(calls) / layers

    def private_bytes(self) -> float:
        """On one rank, weights of the layers that all models but the first have for themselves."""
        whole = weight_bytes(self._stage)
        once = [op for op in (*self._stage.tokens, *self._stage.sequences) if not isinstance(op, Collective)]
        of_layers = whole - sum(operator.weight_bytes for operator in once)
        return (self._models - 1) * of_layers * self.blocks.private_layers / self._cost.model.layers

    def iteration(self, tokens: Mapping[int, int], requests: int) -> int:
        """Ticks beyond those of one batch, where a batch has so many tokens of each model and requests in all."""
        counts = tuple(sorted(tokens.values()))
        layers = self._private(requests)
        if len(counts) < 2 or not layers:
            return 0
        key = (layers, *counts)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = ticks(layers * self._apart(counts))
        return known

    def _private(self, requests: int) -> int:
        """Layers that run a model at a time."""
        assembled = self.blocks.equivalent_layers if requests >= self.blocks.busy else 0
        return self.blocks.private_layers - assembled

    def _apart(self, counts: Sequence[int]) -> float:
        """Seconds of a layer by which batches of their own take longer than one batch."""
        alone = sum(self._layer(n) for n in counts) - self._layer(sum(counts))
        return max(0.0, alone) + (len(counts) - 1) * self._call

    def _layer(self, rows: int) -> float:
        """Seconds of the mean layer's operators by rows."""
        if rows not in self._rows:
            times, seconds = self._cost.times, 0.0
            for group in self._stage.layers:
                for operator in group.rows:
                    if isinstance(operator, Collective):
                        seconds += group.count * times.collective(operator, rows)[0]
                    else:
                        seconds += group.count * times.rows(operator, rows)[0]
            self._rows[rows] = seconds / self._cost.model.layers
        return self._rows[rows]
