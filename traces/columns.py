"""The kinds of columns that a request table has beside plain arrays: repeated names, and prefix block ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

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
