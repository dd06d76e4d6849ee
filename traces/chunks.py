"""What a prompt is made of: retrieved passages and other pieces that come again, at other places too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .columns import Ints, PrefixBlocks


@dataclass(frozen=True)
class Chunks:
    """The pieces of each row's prompt in order; equal ids are equal text. What they leave of a prompt is its own.

    Row i's are `ids[offsets[i]:offsets[i + 1]]`, with as many `tokens`, and `kinds` by their place in `names`.
    """

    offsets: Ints
    ids: Ints
    tokens: Ints
    kinds: Ints
    names: tuple[str, ...]

    @classmethod
    def of(cls, rows: Sequence[Sequence[tuple[int, int, int]]], names: tuple[str, ...]) -> Chunks:
        """From one list of (id, tokens, kind) a row."""
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        flat = np.array([piece for row in rows for piece in row], np.int64).reshape(-1, 3)
        return cls(offsets, flat[:, 0].copy(), flat[:, 1].copy(), flat[:, 2].copy(), names)

    def row(self, i: int) -> list[tuple[int, int, int]]:
        """Row i's pieces: (id, tokens, kind)."""
        here = slice(int(self.offsets[i]), int(self.offsets[i + 1]))
        return list(zip(self.ids[here].tolist(), self.tokens[here].tolist(), self.kinds[here].tolist(), strict=True))

    def take(self, rows: Any) -> Chunks:
        """The same for some rows (an index array or a mask)."""
        return Chunks.of([self.row(i) for i in np.arange(len(self))[rows].tolist()], self.names)

    def contents(self) -> tuple[str | NDArray[Any], ...]:
        """All there is to it, for a fingerprint."""
        return "\0".join(self.names), self.offsets, self.ids, self.tokens, self.kinds

    def __len__(self) -> int:
        return len(self.offsets) - 1


def chunk_blocks(chunks: Chunks, prompt: Ints, size: int) -> PrefixBlocks:
    """Prefix block ids: two prompts share a block when everything up to its end is the same. size : tokens a block."""
    known: dict[tuple[int, tuple[tuple[int, int, int], ...]], int] = {}
    rows = []
    for i, length in enumerate(prompt.tolist()):
        ids, before = [], -1
        for pieces in _blocks(chunks.row(i), length, size, -1 - i):
            before = known.setdefault((before, pieces), len(known))
            ids.append(before)
        rows.append(ids)
    return PrefixBlocks.of(size, "floor", rows)


def _blocks(
    row: Sequence[tuple[int, int, int]], length: int, size: int, own: int
) -> list[tuple[tuple[int, int, int], ...]]:
    """Each full block as the (id, from, to) of what stands in it; `own` : the id of what no piece covers."""
    pieces = [(id_, tokens) for id_, tokens, _ in row]
    pieces.append((own, max(0, length - sum(tokens for _, tokens in pieces))))
    blocks: list[tuple[tuple[int, int, int], ...]] = []
    block: list[tuple[int, int, int]] = []
    room = size
    for id_, tokens in pieces:
        at = 0
        while at < tokens and len(blocks) < length // size:
            step = min(room, tokens - at)
            block.append((id_, at, at + step))
            at, room = at + step, room - step
            if not room:
                blocks.append(tuple(block))
                block, room = [], size
    return blocks
