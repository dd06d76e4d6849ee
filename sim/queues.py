"""The waiting queue of a rank: first in first out, or in order of a policy's key."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator

from .core import QueuePolicy, Request


class FifoQueue(deque[Request]):
    """Head first; the preempted return to the head."""

    push = deque.append
    push_front = deque.appendleft

    def remove(self, request: Request) -> None:
        """Take one out; the head at once, any other by a search."""
        if self and self[0] is request:
            self.popleft()
        else:
            super().remove(request)


class KeyedQueue:
    """Smallest key first, then earliest arrival; the preempted return to their place."""

    def __init__(self, key: Callable[[Request], tuple[float, ...]]) -> None:
        self._key = key
        self._entries: list[tuple[tuple[float, ...], int, Request]] = []

    def push(self, request: Request) -> None:
        """Insert one at its place."""
        insort(self._entries, (self._key(request), request.index, request))

    push_front = push

    def remove(self, request: Request) -> None:
        """Take one out."""
        place = bisect_left(self._entries, (self._key(request), request.index))
        assert self._entries[place][2] is request, "a queue key changed while its request waited"
        del self._entries[place]

    def clear(self) -> None:
        """Take everybody out."""
        self._entries.clear()

    def __iter__(self) -> Iterator[Request]:
        return (request for _, _, request in self._entries)

    def __len__(self) -> int:
        return len(self._entries)


Queue = FifoQueue | KeyedQueue


def make_queue(policy: QueuePolicy) -> Queue:
    """An empty queue in `policy`'s order."""
    return FifoQueue() if policy.fifo else KeyedQueue(policy.key)
