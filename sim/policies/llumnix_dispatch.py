"""Router: Llumnix's dispatch, to the replica with the greatest freeness (OSDI'24)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..core import ReplicaView, Request
from .freeness import Freeness, greatest


@dataclass
class LlumnixDispatch(Freeness):
    """Parameters as `Freeness`; the first replica wins a tie.

    queued : "all" as in the authors' code: with the head's demand only, a burst would all go to one replica.
    """

    queued: Literal["head", "all"] = "all"

    looks_into_engines = True

    def route(self, request: Request, views: Sequence[ReplicaView]) -> int:
        """The freest."""
        urgent = self.high_priority is not None and request.priority <= self.high_priority
        bounds = [self.freeness_before(view, urgent) for view in views]
        return greatest(bounds, lambda i: self.freeness(views[i], urgent))
