"""Router: Llumnix's dispatch, to the replica with the greatest freeness (OSDI'24)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..core import ReplicaView, Request
from .freeness import Freeness


@dataclass
class LlumnixDispatch(Freeness):
    """Parameters as `Freeness`; the first replica wins a tie.

    queued : "all" as in the authors' code: with the head's demand only, a burst would all go to one replica.

    A high-priority request joins others of its kind where all of them stay within `target_tokens`; where there is no
    such replica it goes to the freest of the rest, whose other requests then migrate away. (The authors' code joins
    them whatever the load, and the paper does not say.)
    """

    queued: Literal["head", "all"] = "all"

    looks_into_engines = True

    def route(self, request: Request, views: Sequence[ReplicaView]) -> int:
        """The freest."""
        if self.high_priority is None or request.priority > self.high_priority:
            return self.falling.greatest(views)
        return max(self._high_places(request, views), key=lambda i: self.freeness(views[i], views[i].load, urgent=True))

    def _high_places(self, request: Request, views: Sequence[ReplicaView]) -> Sequence[int]:
        held = [self.holds_high(view) for view in views]
        need = -(-request.prompt_tokens // views[0].block_size)
        within = [i for i, view in enumerate(views) if held[i] and self._room(view) >= need]
        return within or [i for i, high in enumerate(held) if not high] or range(len(views))

    def _room(self, view: ReplicaView) -> int:
        load = view.load
        return load.free_blocks - load.queued_blocks - self.headroom(view)
