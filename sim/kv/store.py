"""What one tier holds: prefix ids with their blocks, least recently used first, within a capacity."""

from __future__ import annotations

from collections.abc import Sequence


class TierStore:
    """capacity : blocks. below : the tier that gets what this one evicts, where it is written back."""

    def __init__(self, capacity: int, below: TierStore | None = None) -> None:
        self.capacity = capacity
        self.below = below
        self.used = 0
        self._held: dict[int, int] = {}  # key -> blocks, oldest first

    def put(self, chain: Sequence[tuple[int, int]]) -> None:
        """Take in the (key, blocks) of a chain, head first; its tail is evicted before its head."""
        for key, blocks in reversed(chain):
            had = self._held.pop(key, 0)
            self._held[key] = max(had, blocks)
            self.used += max(had, blocks) - had
        self.resize(self.capacity)

    def resize(self, capacity: int) -> None:
        """From now on there is room for so much; the oldest goes where that is too little."""
        self.capacity = capacity
        while self.used > capacity:
            key = next(iter(self._held))
            blocks = self.drop(key)
            if self.below:
                self.below.put([(key, blocks)])

    def clear(self) -> None:
        """Everything is lost."""
        self._held.clear()
        self.used = 0

    def lose(self, share: int, of: int) -> None:
        """One of the equal parts that hold it has gone."""
        for key in [key for key in self._held if key % of == share]:
            self.drop(key)

    def drop(self, key: int) -> int:
        """Forget a key; returns its blocks."""
        blocks = self._held.pop(key, 0)
        self.used -= blocks
        return blocks

    def blocks(self, key: int) -> int:
        """Of a key that are here."""
        return self._held.get(key, 0)

    def touch(self, keys: Sequence[int]) -> None:
        """Somebody has used these, head first."""
        for key in reversed(keys):
            if key in self._held:
                self._held[key] = self._held.pop(key)
