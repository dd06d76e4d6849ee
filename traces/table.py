"""The request table: a trace as columns. Everything reads and writes this one type."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

if TYPE_CHECKING:
    from .chunks import Chunks
    from .programs import Programs

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Labels:
    """A column of repeated names: `names[codes[i]]` is row i's. A code of -1 means that the row has none."""

    codes: NDArray[np.int32]
    names: tuple[str, ...]

    @classmethod
    def of(cls, values: Sequence[str | None]) -> Labels:
        """From one name (or None, or "") a row; names are numbered in order of first appearance."""
        index: dict[str, int] = {}
        codes = np.fromiter((index.setdefault(v, len(index)) if v else -1 for v in values), np.int32, len(values))
        return cls(codes, tuple(index))

    def take(self, rows: Any) -> Labels:
        """The same column for some rows (an index array or a mask); names stay."""
        return Labels(self.codes[rows], self.names)

    def contents(self) -> tuple[str | NDArray[Any], ...]:
        """All there is to it, for a fingerprint."""
        return "\0".join(self.names), self.codes

    def __iter__(self) -> Iterator[str | None]:
        return (self.names[c] if c >= 0 else None for c in self.codes.tolist())

    def __len__(self) -> int:
        return len(self.codes)


@dataclass(frozen=True)
class PrefixBlocks:
    """Chained prefix block ids: two requests share their first k blocks when their first k ids are equal.

    `rule` says how many ids n tokens list: "ceil" counts the partial last block (Mooncake), "floor" only full blocks
    (recorded vLLM runs). `scope` says which tokens: the "prompt", or the whole "context", prompt and answer, so that a
    next turn can find what its predecessor wrote. Row i's ids are `ids[offsets[i]:offsets[i + 1]]`.
    """

    size: int  # tokens a block
    rule: Literal["ceil", "floor"]
    offsets: Ints
    ids: Ints
    scope: Literal["prompt", "context"] = "prompt"

    @classmethod
    def of(cls, size: int, rule: Literal["ceil", "floor"], rows: Sequence[Sequence[int]]) -> PrefixBlocks:
        """From one list of ids a row."""
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(r) for r in rows], out=offsets[1:])
        ids = np.fromiter((i for r in rows for i in r), np.int64, int(offsets[-1]))
        return cls(size, rule, offsets, ids)

    def row(self, i: int) -> Ints:
        """Row i's block ids, a view."""
        return self.ids[self.offsets[i] : self.offsets[i + 1]]

    def take(self, rows: Any) -> PrefixBlocks:
        """The same column for some rows (an index array or a mask)."""
        index = np.arange(len(self))[rows]
        kept = PrefixBlocks.of(self.size, self.rule, [self.row(i).tolist() for i in index.tolist()])
        return dataclasses.replace(kept, scope=self.scope)

    def counts(self, prompt_tokens: Ints, output_tokens: Ints) -> Ints:
        """Ids that rows of these lengths list."""
        tokens = prompt_tokens + (output_tokens if self.scope == "context" else 0)
        return -(-tokens // self.size) if self.rule == "ceil" else tokens // self.size

    def contents(self) -> tuple[str | NDArray[Any], ...]:
        """All there is to it, for a fingerprint."""
        scope = "" if self.scope == "prompt" else self.scope
        return f"{self.size}{self.rule}{scope}", self.offsets, self.ids

    def __len__(self) -> int:
        return len(self.offsets) - 1


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
