"""Router of prompt and token pools: Splitwise's cluster scheduler with borrowing (ISCA'24).

Source: Mutinifni/splitwise-sim, 8f99e7dc. All pools have role mixed. A prompt goes to the machine of the prompt pool
with the fewest pending tokens, unless that one has a queue that would grow beyond `max_pending`: then to a machine that
does both already, or else a token machine is borrowed. The token phase goes to the token machine with the least memory
in use, queued for or on its way, unless the prompt does not fit there; then likewise. A borrowed machine that is idle
goes back. The authors' scheduler knows the answer's length and counts it; here an injected predictor's word counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...configs.strict import check
from ..core import ReplicaView, Request


@dataclass
class Splitwise:
    """prompt_pool, token_pool : names of the two pools. max_pending : tokens."""

    prompt_pool: str
    token_pool: str
    max_pending: int = 8192

    looks_into_engines = True

    def __post_init__(self) -> None:
        check(self.max_pending >= 1, "max_pending", self.max_pending, "at least 1 token")
        self._mixed: set[int] = set()  # ids of machines that do both

    def place(
        self, request: Request, prefill: Sequence[ReplicaView], decode: Sequence[ReplicaView]
    ) -> tuple[int, int] | None:
        """Positions in `prefill` and `decode`, which hold the same machines."""
        self._mixed -= {view.id for view in prefill if not view.requests}
        prompt, token = self._prompt_machine(request, prefill), self._token_machine(request, decode)
        if prompt is None or token is None:  # all do both already
            least = min(range(len(prefill)), key=lambda i: (prefill[i].pending_tokens, i))
            return least, least
        return prompt, token

    def _pool(self, views: Sequence[ReplicaView], name: str) -> list[int]:
        return [i for i, view in enumerate(views) if view.pool == name and view.id not in self._mixed]

    def _prompt_machine(self, request: Request, views: Sequence[ReplicaView]) -> int | None:
        pending = [view.pending_tokens for view in views]

        def fits(i: int) -> bool:
            return pending[i] == 0 or pending[i] + request.prompt_tokens <= self.max_pending

        return self._first(views, self.prompt_pool, self.token_pool, pending, fits)

    def _token_machine(self, request: Request, views: Sequence[ReplicaView]) -> int | None:
        used = [_committed(view) for view in views]

        def fits(i: int) -> bool:
            view = views[i]
            need = request.prompt_tokens + round(request.estimate)
            return used[i] - (-need // view.block_size) <= view.load.total_blocks

        return self._first(views, self.token_pool, self.prompt_pool, used, fits)

    def _first(
        self, views: Sequence[ReplicaView], own: str, other: str, load: list[int], fits: Callable[[int], bool]
    ) -> int | None:
        """The least loaded of its own pool if it fits, else of the mixed ones if it fits, else one of the other pool,
        which becomes mixed; None if there is none."""
        mixed = [i for i, view in enumerate(views) if view.id in self._mixed]
        for group in (self._pool(views, own), mixed):
            if group:
                best = min(group, key=lambda i: (load[i], i))
                if fits(best):
                    return best
        borrowed = min(self._pool(views, other), key=lambda i: (load[i], i), default=None)
        if borrowed is not None:
            self._mixed.add(views[borrowed].id)
        return borrowed


def _committed(view: ReplicaView) -> int:
    """Blocks in use, queued for, and of requests on their way."""
    load = view.load
    return load.total_blocks - load.free_blocks + load.queued_blocks - (-view.coming // view.block_size)
