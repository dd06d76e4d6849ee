"""Router: IC-Cache (SOSP'25): a small model answers what examples from old answers make it good enough for.

The examples are the small pool's `prepend_tokens`. How good the small model would be is drawn for every request; a
threshold says what is good enough, and load on the large pool lowers it, so that the share of the small one rises.
The large model answers a request that is like no old one: there are no examples for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...configs.strict import check
from ...traces.streams import Stream
from ..core import ReplicaView, Request


@dataclass
class IcCache:
    """small_pool, large_pool : their names. share : of the requests that go to the small one with the large one idle;
    busy_share : with `busy` requests a large replica or more; in between in proportion. similar : share of the requests
    for which examples are found, which bounds both. Each pool takes its least loaded replica."""

    small_pool: str
    large_pool: str
    share: float = 0.5
    busy_share: float = 0.9
    busy: int = 32
    similar: float = 1.0

    def __post_init__(self) -> None:
        check(0 <= self.share <= 1, "share", self.share, "a share from 0 to 1")
        check(self.share <= self.busy_share <= 1, "busy_share", self.busy_share, f"from share = {self.share:g} to 1")
        check(0 <= self.similar <= 1, "similar", self.similar, "a share from 0 to 1")
        check(self.busy >= 1, "busy", self.busy, "at least 1 request")

    def begin(self, stream: Stream) -> None:
        """Receive the stream of this run."""
        self._stream = stream

    def route(self, request: Request, views: Sequence[ReplicaView]) -> int:
        """The small pool where that is good enough."""
        pools = {
            name: [i for i, v in enumerate(views) if v.pool == name] for name in (self.small_pool, self.large_pool)
        }
        large = [views[i].requests for i in pools[self.large_pool]]
        load = min(1.0, sum(large) / len(large) / self.busy) if large else 1.0
        small = self._stream.next() < min(self.similar, self.share + load * (self.busy_share - self.share))
        chosen = pools[self.small_pool if small else self.large_pool]
        return min(chosen or range(len(views)), key=lambda i: views[i].requests)
