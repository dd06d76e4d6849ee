"""A store of chunk KV caches, least recently used first, within a capacity of tokens."""

from __future__ import annotations


class ChunkStore:
    """`put` one in, `has` it still? capacity : tokens."""

    def __init__(self, capacity: float) -> None:
        self._capacity = capacity
        self._used = 0
        self._held: dict[int, int] = {}  # id -> tokens, oldest first

    def put(self, id_: int, tokens: int) -> None:
        """Store a chunk, or note that it was used."""
        self._used += tokens - self._held.pop(id_, 0)
        self._held[id_] = tokens
        while self._used > self._capacity:
            self._used -= self._held.pop(next(iter(self._held)))

    def __contains__(self, id_: int) -> bool:
        return id_ in self._held
