"""The waiting queue of a rank: first in first out, in order of a policy's key, or in an order that changes."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import Protocol, cast

from ..core import QueuePolicy, RankView, Request, Step

_index = attrgetter("index")


class LiveQueuePolicy(QueuePolicy, Protocol):
    """A queue policy whose order changes while requests wait.

    live : True. It is told who joins and leaves the queue, at boundaries, and keeps what it needs of them.
    """

    live: bool

    def queued(self, request: Request) -> None:
        """Somebody has joined the queue, for the first time or preempted."""
        ...

    def left(self, request: Request) -> None:
        """Somebody has left it: admitted (as `Request.scheduled` will say), or dropped."""
        ...

    def order(self, requests: Iterable[Request], view: RankView) -> Iterable[Request]:
        """`requests`, given in order of arrival, as they stand now. Whoever takes another one has admitted the last."""
        ...

    def stands(self, step: Step, view: RankView) -> int:
        """For how many iterations of `step`, which admits nobody, the head of the queue stays the same, at least 1."""
        ...


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


class LiveQueue:
    """Whatever order the policy says when it is asked. view : the engine it belongs to."""

    def __init__(self, policy: LiveQueuePolicy, view: RankView) -> None:
        self._policy, self._view = policy, view
        self._requests: list[Request] = []

    def push(self, request: Request) -> None:
        """Take one in."""
        insort(self._requests, request, key=_index)
        self._policy.queued(request)

    push_front = push

    def remove(self, request: Request) -> None:
        """Take one out."""
        del self._requests[bisect_left(self._requests, request.index, key=_index)]
        self._policy.left(request)

    def clear(self) -> None:
        """Take everybody out."""
        for request in list(self._requests):
            self.remove(request)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._policy.order(self._requests, self._view))

    def __len__(self) -> int:
        return len(self._requests)


Queue = FifoQueue | KeyedQueue | LiveQueue


def live(policy: QueuePolicy) -> LiveQueuePolicy | None:
    """The policy, if its order changes while requests wait."""
    return cast(LiveQueuePolicy, policy) if getattr(policy, "live", False) else None


def make_queue(policy: QueuePolicy, view: RankView) -> Queue:
    """An empty queue of the engine `view` in `policy`'s order."""
    changing = live(policy)
    if changing:
        return LiveQueue(changing, view)
    return FifoQueue() if policy.fifo else KeyedQueue(policy.key)


def ranked(policy: QueuePolicy, requests: Iterable[Request], view: RankView) -> list[Request]:
    """Any requests in `policy`'s order."""
    changing = live(policy)
    if changing:
        return list(changing.order(sorted(requests, key=_index), view))
    return sorted(requests, key=lambda r: (policy.key(r), r.index))
