"""Router: a replica that has the request's LoRA adapter, unless it is overloaded; else the least loaded one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...configs.strict import check
from ..core import ReplicaView, Request


@dataclass
class AdapterAffinity:
    """overload : a replica with more than so many times the mean number of requests (and one more) is passed by."""

    overload: float = 1.5

    looks_into_engines = True

    def __post_init__(self) -> None:
        check(self.overload >= 1, "overload", self.overload, "at least 1")

    def route(self, request: Request, views: Sequence[ReplicaView]) -> int:
        """The least loaded that has it, or of all."""
        most = self.overload * sum(view.requests for view in views) / len(views) + 1
        homes = [i for i, view in enumerate(views) if view.requests < most and view.has_adapter(request)]
        return min(homes or range(len(views)), key=lambda i: views[i].requests)
