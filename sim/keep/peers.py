"""Prefixes copied between the prefix caches of replicas, as Mooncake's conductor has hot ones copied (FAST'25).

Who has most of a prompt is noted when somebody first asks, at the latest when the request has arrived: from then on it
is the one source of a copy, whatever happens to its cache meanwhile. What it has lost by the time of the transfer is
not copied. Reading takes neither blocks nor time of the source, and what is being read is assumed to stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..cluster.links import Link
from ..core import Request

if TYPE_CHECKING:
    from ..cluster.replica import Replica
    from ..cluster.sites import Sites


class Peers:
    """The replicas that can copy from each other. groups : by engine, (engine, replica) of all that it belongs with."""

    def __init__(self, sites: Sites, groups: Mapping[Any, Sequence[tuple[Any, Replica]]]) -> None:
        self._sites, self._groups = sites, groups
        self._noted: dict[int, tuple[Any, int]] = {}  # live requests -> engine that has most of the prompt, its blocks

    def note(self, request: Request, engine: Any = None) -> None:
        """Find who has most of a prompt, among an engine, by default the request's own, and its peers."""
        group = self._groups.get(engine or request.engine)
        if group and request.index not in self._noted:
            up = [other for other, replica in group if replica.state in ("up", "draining")]
            found = [other.cached_now(request) for other in up] or [0]
            self._noted[request.index] = up[found.index(max(found))] if up else None, max(found)

    def noted(self, request: Request) -> tuple[Any, int]:
        """The engine that had most of a prompt, and the blocks of it; (None, 0) = nobody has asked."""
        return self._noted.get(request.index, (None, 0))

    def forget(self, request: Request) -> None:
        """It has ended."""
        self._noted.pop(request.index, None)

    def path(self, source: Any, target: Any) -> tuple[Sequence[Link], int]:
        """Links from one engine to another, and the latency in ticks."""
        return self._sites.path(source, target)
