"""Step times by Vidur's rules from tables of its predicted operator times: equal costs for two simulators.

Source: microsoft/vidur (7d475133), `execution_time_predictor/sklearn_execution_time_predictor.py`. An iteration takes

    layers x (token operators + decode attention + prefill attention)

where token operators and all-reduces go by the tokens of the batch rounded up to a multiple of 8; decode attention by
the decodes and their mean context, floored and rounded up to a multiple of 64; prefill attention by the contexts of the
prompt parts, each rounded up to a multiple of 64, in sum, and the root of their summed squares. Vidur's context of a
decode counts the token that this iteration writes. Embedding, head, sampler and host take nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt
from pathlib import Path

import numpy as np

from ..errors import InputError
from .base import FOREVER, Chunk, Piece, StageCost, ticks
from .grid import Array
from .stage import Memory
from .tablefile import read_columns

_TOKENS, _CONTEXT = 8, 64  # keys are multiples
_BATCHING = 1.1  # attention of several decodes, or of several prompts, takes so much longer than predicted
_LAUNCH_MS = 0.02  # of an all-reduce, which a layer has two of

Key = tuple[int, int]


class VidurStage:
    """The time of a batch.

    layers : of the model. tokens : milliseconds of a layer's token operators by tokens. decode : by (decodes, mean
    context). prefill : by (sum of contexts, effective chunk). All by keys rounded as above.

    A key that no table has takes the time of the nearest one and counts as outside what was measured.
    """

    def __init__(
        self, layers: int, tokens: Mapping[int, float], decode: Mapping[Key, float], prefill: Mapping[Key, float]
    ) -> None:
        self._layers = layers
        rows = {(key, 0): ms for key, ms in tokens.items()}
        self._tables = {"tokens": rows, "decode": dict(decode), "prefill": dict(prefill)}
        self._found: Memory[tuple[str, Key], tuple[float, bool]] = Memory(self._find)

    def piece(
        self, chunks: Sequence[Chunk], decodes: int, context_sum: int, context_min: int, context_max: int
    ) -> Piece:
        """See `StageCost.piece`; the batch holds at least one token."""
        total = decodes + sum(tokens for tokens, _ in chunks)
        parts = [self._found["tokens", (_up(total, _TOKENS), 0)]]
        valid = FOREVER
        if decodes:
            mean = context_sum // decodes + 1
            ms, known = self._found["decode", (decodes, _up(mean, _CONTEXT))]
            parts.append((ms * (_BATCHING if decodes > 1 else 1.0), known))
            valid = _up(mean, _CONTEXT) - mean + 1
        if chunks:
            key = sum(_up(context, _CONTEXT) for _, context in chunks), _root(sum(t * t for t, _ in chunks))
            ms, known = self._found["prefill", key]
            parts.append((ms * (_BATCHING if len(chunks) > 1 else 1.0), known))
            valid = 1
        base = ticks(self._layers * sum(ms for ms, _ in parts) * 1e-3)
        outside = sum(self._layers * ms * 1e-3 for ms, known in parts if not known)
        return base, 0, valid, ticks(outside)

    def _find(self, key: tuple[str, Key]) -> tuple[float, bool]:
        name, (a, b) = key
        table = self._tables[name]
        known = (a, b) in table
        nearest = (a, b) if known else min(table, key=lambda other: (abs(other[0] - a) + abs(other[1] - b), other))
        return table[nearest], known


class VidurCost:
    """`CostModel` of one stage that knows no host."""

    extremes = False
    label = "Vidur's tables"

    def __init__(self, stage: VidurStage, source: str) -> None:
        self.stages: Sequence[StageCost] = (stage,)
        self.meters: Mapping[str, Sequence[StageCost]] = {}
        self._source = source

    def hop(self, tokens: int) -> int:
        return 0

    def host(self, sequences: int) -> int:
        return 0

    def describe(self) -> dict[str, object]:
        return {"label": self.label, "hardware": "as profiled", "source": self._source}


def read_cost(layers: int, tokens: Path, decode: Path, prefill: Path) -> VidurCost:
    """The cost model of three CSV files: `num_tokens` and a column an operator; `batch_size, avg_kv_rounded64, ms`;
    `sum_kv_rounded64, eff_chunk, ms`. Milliseconds of one layer, factors for batching and launches not included.

    Raises InputError where a file or column is missing or a key is there twice.
    """
    operators = _columns(tokens)
    keys = _column(operators, "num_tokens", tokens)
    twice = operators.pop("all_reduce", None)  # after attention and after the MLP
    times = sum(operators.values(), np.zeros(len(keys)))
    if twice is not None:
        times = times + 2 * (twice + _LAUNCH_MS)
    rows = _table([(int(key), 0) for key in keys], times.tolist(), tokens)
    stage = VidurStage(
        layers,
        {key: ms for (key, _), ms in rows.items()},
        _keyed(decode, "batch_size", "avg_kv_rounded64"),
        _keyed(prefill, "sum_kv_rounded64", "eff_chunk"),
    )
    return VidurCost(stage, f"{tokens.name}, {decode.name}, {prefill.name}")


def _keyed(path: Path, *names: str) -> dict[Key, float]:
    columns = _columns(path)
    first, second = (_column(columns, name, path) for name in names)
    keys = [(int(a), int(b)) for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    return _table(keys, _column(columns, "ms", path).tolist(), path)


def _columns(path: Path) -> dict[str, Array]:
    if not path.is_file():
        raise InputError(str(path), "no such file", "a table of operator times")
    return read_columns(path.read_bytes(), str(path), ())


def _column(columns: dict[str, Array], name: str, path: Path) -> Array:
    if name not in columns:
        raise InputError(str(path), f"no column {name!r}", f"{name} among {', '.join(columns)}")
    return columns.pop(name)


def _table(keys: list[Key], values: list[float], path: Path) -> dict[Key, float]:
    table = dict(zip(keys, values, strict=True))
    if len(table) < len(keys):
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise InputError(str(path), f"two rows with the keys {twice}", "one row for each key")
    return table


def _up(x: int, step: int) -> int:
    return -(-x // step) * step


def _root(squares: int) -> int:
    """The square root, to the nearest whole number."""
    root = isqrt(squares)
    return root + (squares - root * root > root)
