"""Reader of Splitwise's measured step times (Mutinifni/splitwise-sim 8f99e7dc, `data/perf_model.csv`).

Used as the authors use them: medians by the number of tokens in the batch, linear between and beyond them. A batch of
prompts takes the prompt time of its tokens, a batch of decodes the token time at as many tokens as it has requests, a
mixed one 1.1 times the prompt time of all. Contexts do not matter.
"""

from __future__ import annotations

import csv
import gzip
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from ...errors import InputError, unknown_name
from ..base import FOREVER, Chunk, Piece, StageCost, ticks

MIXED = 1.1
_NEEDED = (
    "model", "hardware", "tensor_parallel", "prompt_size", "batch_size", "prompt_time", "token_time",
)  # fmt: skip


class Medians:
    """Median seconds by tokens in the batch."""

    def __init__(self, rows: Mapping[int, Sequence[float]]) -> None:
        self._tokens = sorted(rows)
        self._seconds = [median(rows[tokens]) for tokens in self._tokens]

    def at(self, tokens: int) -> float:
        """Seconds of a batch; the outermost two points give the line beyond them."""
        known = self._tokens
        right = next((i for i, point in enumerate(known) if point >= tokens), len(known) - 1)
        i = max(1, right)
        low, high = known[i - 1], known[i]
        share = (tokens - low) / (high - low)
        return self._seconds[i - 1] + share * (self._seconds[i] - self._seconds[i - 1])

    def covers(self, tokens: int) -> bool:
        """Whether it was measured around there."""
        return self._tokens[0] <= tokens <= self._tokens[-1]


class SplitwiseStage:
    """All layers on one machine."""

    def __init__(self, prompt: Medians, token: Medians) -> None:
        self.prompt, self.token = prompt, token
        self._known: dict[tuple[int, int], tuple[int, int]] = {}

    def piece(
        self, chunks: Sequence[Chunk], decodes: int, context_sum: int, context_min: int, context_max: int
    ) -> Piece:
        """As `StageCost.piece`; nothing changes as contexts grow."""
        key = sum([tokens for tokens, _ in chunks]), decodes
        if key not in self._known:
            self._known[key] = self._price(*key)
        base, outside = self._known[key]
        return base, 0, FOREVER, outside

    def _price(self, prompt_tokens: int, decodes: int) -> tuple[int, int]:
        batch = prompt_tokens + decodes
        table = self.prompt if prompt_tokens else self.token
        base = ticks(table.at(batch) * (MIXED if prompt_tokens and decodes else 1.0))
        return base, 0 if table.covers(batch) else base


class SplitwiseCost:
    """A `CostModel` of one model, kind of machine and tensor-parallel degree.

    hardware : "a100-80gb", "h100-80gb" or "h100-80gb-pcap" (capped at 70 % of its power).
    Raises InputError for a file that is not Splitwise's, and for what it does not have.
    """

    extremes = False
    label = "measured"
    meters: Mapping[str, Sequence[StageCost]] = {}

    def __init__(self, path: Path, model: str, hardware: str, tensor_parallel_size: int = 8) -> None:
        wanted = {"model": model, "hardware": hardware, "tensor_parallel": str(tensor_parallel_size)}
        rows = _rows(path)
        for key, name in wanted.items():
            if all(row[key] != name for row in rows):
                raise unknown_name(str(path), key, name, sorted({row[key] for row in rows}))
            rows = [row for row in rows if row[key] == name]
        self._source = f"{path.name}: {model} on {hardware}, tensor_parallel_size {tensor_parallel_size}"
        self.stages = [SplitwiseStage(_medians(path, rows, "prompt_time"), _medians(path, rows, "token_time"))]

    def hop(self, tokens: int) -> int:
        """There is one stage."""
        return 0

    def host(self, sequences: int) -> int:
        """In the measured times already."""
        return 0

    def describe(self) -> dict[str, object]:
        """Where the times come from."""
        return {"label": self.label, "source": self._source}


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(str(path), f"cannot be read ({error})", "Splitwise's perf_model.csv") from None
    missing = [name for name in _NEEDED if not rows or name not in rows[0]]
    if missing:
        raise InputError(str(path), f"no column {missing[0]}", "Splitwise's perf_model.csv")
    return rows


def _medians(path: Path, rows: Sequence[Mapping[str, str]], column: str) -> Medians:
    times: dict[int, list[float]] = defaultdict(list)
    try:
        for row in rows:
            times[int(row["prompt_size"]) * int(row["batch_size"])].append(float(row[column]) / 1e3)
    except (TypeError, ValueError) as error:
        raise InputError(str(path), f"not a number ({error})", "sizes and milliseconds") from None
    if len(times) < 2:
        raise InputError(str(path), f"{len(times)} batch sizes", "at least two, to interpolate between")
    return Medians(times)
