"""Router of prompt and token pools: Splitwise's cluster scheduler with borrowing (ISCA'24).

Source: Mutinifni/splitwise-sim, 8f99e7dc. All pools have role mixed. A prompt goes to the machine of the prompt pool
with the fewest pending tokens, unless that one has a queue that would grow beyond `max_pending`: then to a machine that
does both already, or else a token machine is borrowed. The token phase goes to the token machine with the least memory
in use or queued for, unless the prompt does not fit there; then likewise. A borrowed machine that is idle goes back.
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
        prompt = self._prompt_machine(request, prefill)
        token = self._token_machine(request, decode)
        return prompt, token

    def _pool(self, views: Sequence[ReplicaView], name: str) -> list[int]:
        return [i for i, view in enumerate(views) if view.pool == name and view.id not in self._mixed]

    def _prompt_machine(self, request: Request, views: Sequence[ReplicaView]) -> int:
        mixed = [i for i, view in enumerate(views) if view.id in self._mixed]
        pending = [view.pending_tokens for view in views]

        def fits(i: int) -> bool:
            return pending[i] == 0 or pending[i] + request.prompt_tokens <= self.max_pending

        return self._first(
            views, [self._pool(views, self.prompt_pool), mixed, self._pool(views, self.token_pool)], pending, fits
        )

    def _token_machine(self, request: Request, views: Sequence[ReplicaView]) -> int:
        mixed = [i for i, view in enumerate(views) if view.id in self._mixed]
        loads = [view.load for view in views]
        used = [load.total_blocks - load.free_blocks + load.queued_blocks for load in loads]

        def fits(i: int) -> bool:
            need = -(-request.prompt_tokens // views[i].block_size)
            return used[i] + need <= loads[i].total_blocks

        return self._first(
            views, [self._pool(views, self.token_pool), mixed, self._pool(views, self.prompt_pool)], used, fits
        )

    def _first(
        self, views: Sequence[ReplicaView], choices: list[list[int]], load: list[int], fits: Callable[[int], bool]
    ) -> int:
        """The least loaded machine that fits of the first group that has one; of the last group it becomes mixed."""
        for number, group in enumerate(choices):
            if group:
                best = min(group, key=lambda i: (load[i], i))
                if fits(best):
                    if number == len(choices) - 1:
                        self._mixed.add(views[best].id)
                    return best
        return min(range(len(views)), key=lambda i: (load[i], i))
