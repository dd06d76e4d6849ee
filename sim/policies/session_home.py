"""Router: every session stays at its home replica; an overloaded home is passed by for the least loaded one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...configs.strict import check
from ..core import ReplicaView, Request


@dataclass
class SessionHome:
    """The home is where the session's first request went, the least loaded replica then (as Autellix's program home).

    overload : a home with more than so many times the mean number of requests (and one more) is passed by.
    short_tokens : prompts up to this length always go to the least loaded replica (Autellix: 2,048; 0 = none).
    """

    overload: float = 2.0
    short_tokens: int = 0

    def __post_init__(self) -> None:
        check(self.overload >= 1, "overload", self.overload, "at least 1")
        check(self.short_tokens >= 0, "short_tokens", self.short_tokens, "0 or more tokens")
        self._home: dict[int, int] = {}

    def route(self, request: Request, views: Sequence[ReplicaView]) -> int:
        """Home, if it is there and not overloaded."""
        loads = [view.requests for view in views]
        least = loads.index(min(loads))
        if request.session < 0 or request.prompt_tokens <= self.short_tokens:
            return least
        home = self._home.setdefault(request.session, views[least].id)
        place = next((i for i, view in enumerate(views) if view.id == home), None)
        if place is None:  # it is down
            self._home[request.session] = views[least].id
            return least
        return place if loads[place] <= self.overload * sum(loads) / len(loads) + 1 else least
