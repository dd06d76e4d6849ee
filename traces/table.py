"""The request table: a trace as columns. Everything reads and writes this one type."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import InputError
from .chunks import Chunks
from .columns import Floats, Ints, Labels, PrefixBlocks
from .programs import Programs


@dataclass(frozen=True)
class Source:
    """Where a table came from and what its reader did."""

    name: str = "memory"  # file name or a word
    format: str = "memory"  # the reader's name
    rows: int = 0  # data rows read
    failed: int = 0  # rows with 0 response tokens
    dropped: int = 0  # failed rows left out
    reordered: int = 0  # rows whose time was before their predecessor's
    duplicates: int = 0  # rows equal to an earlier one in every column; kept
    origin: float = 0.0  # seconds (or epoch seconds) that became 0.0 in `arrival`


OPTIONAL_LABELS = ("request_id", "session", "model", "tenant", "request_class")


@dataclass(frozen=True)
class RequestTable:
    """A trace: one row a request, in arrival order.

    arrival : float64 seconds from the trace's zero, finite, >= 0 and non-decreasing.
    prompt_tokens : int64, >= 1 (0 only in a failed row that was kept).
    output_tokens : int64, >= 1 (0 only in a failed row that was kept).
    session, model, tenant, request_class, request_id : `Labels`, or None where the source has no such column.
    priority : int64, lower runs first (vLLM's order). cancel_after : float64 seconds from arrival at which the
    client gives up, inf = never. elapsed : float64 seconds end to end as recorded, nan = unknown.
    blocks : prefix block ids. programs : which rows wait for which, see `Programs`. chunks : what
    prompts are made of, see `Chunks`.
    """

    arrival: Floats
    prompt_tokens: Ints
    output_tokens: Ints
    request_id: Labels | None = None
    session: Labels | None = None
    model: Labels | None = None
    tenant: Labels | None = None
    request_class: Labels | None = None
    priority: Ints | None = None
    cancel_after: Floats | None = None
    elapsed: Floats | None = None
    blocks: PrefixBlocks | None = None
    programs: Programs | None = None
    chunks: Chunks | None = None
    source: Source = field(default_factory=Source)

    def __post_init__(self) -> None:
        n = len(self.arrival)
        for name, column in self.columns().items():
            if len(column) != n:
                raise InputError(name, f"{len(column)} values", f"{n}, one a request")
        if n and not np.all(np.isfinite(self.arrival)):
            row = int(np.flatnonzero(~np.isfinite(self.arrival))[0])
            raise InputError(f"arrival[{row}]", str(self.arrival[row]), "a finite number of seconds")
        if n and np.any(np.diff(self.arrival) < 0):
            row = int(np.flatnonzero(np.diff(self.arrival) < 0)[0]) + 1
            raise InputError(f"arrival[{row}]", f"{self.arrival[row]} after {self.arrival[row - 1]}", "times in order")
        if n and (self.arrival[0] < 0):
            raise InputError("arrival[0]", str(self.arrival[0]), "a time of 0 s or later")
        for name, values in (("prompt_tokens", self.prompt_tokens), ("output_tokens", self.output_tokens)):
            if n and int(values.min()) < 0:
                row = int(np.argmin(values))
                raise InputError(f"{name}[{row}]", str(values[row]), "0 or more tokens")

    def __len__(self) -> int:
        return len(self.arrival)

    def columns(self) -> dict[str, Any]:
        """The columns that are there, by name."""
        fields = (f.name for f in dataclasses.fields(self) if f.name != "source")
        return {name: getattr(self, name) for name in fields if getattr(self, name) is not None}

    def take(self, rows: Any) -> RequestTable:
        """Some rows (an index array, a mask or a slice) in the same order; `arrival` is not shifted."""
        index = np.arange(len(self))[rows]
        changed: dict[str, Any] = {
            name: column[index] if isinstance(column, np.ndarray) else column.take(index)
            for name, column in self.columns().items()
        }
        return dataclasses.replace(self, **changed)

    def fingerprint(self) -> str:
        """SHA-256 of the columns' contents (not of the source), first 16 hex digits."""
        digest = hashlib.sha256()
        for name, column in self.columns().items():
            digest.update(name.encode())
            parts = [column] if isinstance(column, np.ndarray) else column.contents()
            for part in parts:
                digest.update(part.encode() if isinstance(part, str) else np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()[:16]
