"""An engine that drafts and verifies: a step gives each decode one token and as many drafted ones as are accepted.

It steps: how far a request gets is drawn, so there is nothing to leap over. It is the list-walking loop of `oracle`
with other times and more tokens; what all decodes verify shares the token budget of the iteration.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from copy import copy
from functools import partial
from types import SimpleNamespace
from typing import Any

from ...configs.speculation import Speculation
from ...costmodels.base import ticks
from ...costmodels.composed import ComposedCost
from ...costmodels.drafting import Drafter
from ...traces.columns import Labels
from ..core import Request, Step
from ..deployment import Deployment
from ..records import Recorder, note_odd_gaps
from .acceptance import Acceptance, check_classes
from .oracle import ListEngine


def speculative(deployment: Deployment, seed: int, classes: Labels | None) -> Callable[..., SpeculativeEngine]:
    """What makes the engines of a pool that speculates. Raises InputError for classes without an acceptance."""
    speculation, hardware = deployment.pool.techniques.speculation, deployment.hardware
    assert speculation is not None
    check_classes(speculation, classes, f"{deployment.where}.techniques.speculation")
    bandwidth = hardware.memory_bandwidth * hardware.achieved.memory
    return partial(
        SpeculativeEngine, speculation=speculation, drafter=deployment.drafter, acceptance=Acceptance(seed, classes),
        realign_seconds=2 * deployment.capacity.shape.token_bytes / bandwidth,  # read and written
    )  # fmt: skip


class SpeculativeEngine(ListEngine):
    """One engine. Arguments as `ListEngine`, with the recorder's tables of its number.

    The iteration's draft length is the plan's, or what the token budget leaves each decode: prompts get the rest. A
    decode needs KV blocks for all it verifies; what was not accepted is written over in the next step.

    realign_seconds : to move the keys and values of a token, where requests of different lengths are aligned anew.
    """

    def __init__(
        self, *arguments: Any, speculation: Speculation, drafter: Drafter | None, acceptance: Acceptance,
        realign_seconds: float, recorder: Recorder, number: int,
    ) -> None:  # fmt: skip
        super().__init__(*arguments)
        self.speculation, self.drafter, self.acceptance = speculation, drafter, acceptance
        self.realign_seconds = realign_seconds
        self.busy = self.outside = 0
        self.drafted = self.accepted = 0  # tokens
        self._leaps, self._odd_gaps = recorder.leaps[number], recorder.odd_gaps[number]
        self._budget = self.limits.max_num_batched_tokens
        self.limits = copy(self.limits)  # what the policy sees of the budget changes from step to step
        self._tokens = 0  # drafted for each decode of this iteration
        self._extra: dict[Request, int] = {}  # accepted and not yet credited
        self._costs: dict[int, ComposedCost] = {}

    # -- deciding ------------------------------------------------------------------------------------------------

    def decoding(self) -> list[Request]:
        """Requests that decode and may run now, in list order: where lengths are grouped, the largest group of equal
        ones if it fills the batch, else the first."""
        everyone = super().decoding()
        if self.speculation.ragged != "group" or not everyone:
            return everyone
        length, most = max(Counter(r.computed for r in everyone).items(), key=lambda item: (item[1], -item[0]))
        batch = self.speculation.group_size
        return [r for r in everyone if r.computed == length][:batch] if most >= batch else everyone[:batch]

    def decide(self) -> Step | None:
        """The policy's next step, with what drafts leave of the token budget."""
        decodes = len(self.decoding())
        room = self._budget // decodes - 1 if decodes else 0
        self._tokens = max(0, min(self.speculation.tokens, room))
        self.limits.max_num_batched_tokens = self._budget - decodes * self._tokens
        return super().decide()

    def growth(self, request: Request, tokens: int) -> int:
        """Blocks that one more iteration takes: a decode writes all that it verifies."""
        if request.computed < request.target or not self.kv.grows:
            return super().growth(request, tokens)
        reached = min(request.computed + 1 + self._tokens, self.limits.max_model_len)
        return max(0, self.limits.blocks(reached) - request.blocks)

    # -- an iteration --------------------------------------------------------------------------------------------

    def compute(self, flight: SimpleNamespace, ghosts: int) -> None:
        """Draft, then verify beside the prompts; see `ListEngine.compute`."""
        chunks = [(tokens, request.computed) for request, tokens in flight.parts]
        contexts = [r.computed for r in flight.decodes]
        contexts += [sum(contexts) // len(contexts)] * ghosts if contexts else []
        stage = self._verifying(1 + self._tokens).stages[0]
        context = (len(contexts), sum(contexts), min(contexts, default=0), max(contexts, default=0))
        verify, _, _, outside = stage.piece(chunks, *context)
        own = [stage.piece((c,), 0, 0, 0, 0)[0] for c in chunks]
        flight.pure = stage.piece((), *context)[0] if contexts else 0
        drafting = self._draft(flight.decodes) + self._realign(flight.decodes)
        flight.pure += drafting
        if self.drafter and chunks:
            drafting += self.drafter.prefill(chunks)
            own = [alone + self.drafter.prefill([c]) for alone, c in zip(own, chunks, strict=True)]
        flight.own, flight.host = own, self.cost.host(len(contexts) + len(chunks))
        copying, beside = self.host.begin(), 0
        if self.beside:
            beside = self.beside.iteration(flight.decodes, flight.parts)
            flight.pure += 0 if chunks else beside
            beside += self.beside.stall(self.begin)
        work = flight.host + beside + verify + drafting
        flight.end = self.begin + (max(work, copying) if self.host.overlaps else work + copying)
        self.busy += flight.end - flight.start
        self.outside += outside
        flight.used, flight.queue = self.total_blocks - self.pool.free, len(self.waiting)

    def _verifying(self, queries: int) -> ComposedCost:
        if queries not in self._costs:
            target: Any = self.cost
            self._costs[queries] = target.verifying(queries)
        return self._costs[queries]

    def _draft(self, decodes: list[Request]) -> int:
        """Ticks of drafting; what will be accepted is drawn."""
        tokens = self._tokens
        if not decodes or not tokens:
            return 0
        for request in decodes:
            left = self.lengths[request.index] - request.generated - 1
            self._extra[request] = accepted = min(self.acceptance.draw(request, self.speculation), tokens, left)
            self.drafted += tokens
            self.accepted += accepted
        if self.drafter is None:
            return 0
        return self.drafter.round(decodes, sum(r.computed for r in decodes), tokens, self.acceptance.draw)

    def _realign(self, decodes: list[Request]) -> int:
        """Ticks of moving keys and values where requests got unequally far."""
        if self.speculation.ragged == "paged" or len({r.computed + self._extra.get(r, 0) for r in decodes}) < 2:
            return 0
        return ticks(self.realign_seconds * sum(r.computed + 1 for r in decodes))

    def token(self, request: Request, now: int) -> list[Request]:
        """Credit a token and the accepted drafts before it."""
        extra = self._extra.pop(request, 0)
        request.generated += extra
        if extra:
            request.computed += extra
            request.target = request.computed
            self.gaps += [0] * extra
        return super().token(request, now)

    def land(self, flight: SimpleNamespace) -> None:
        """Book a batch, and its row in the log; accepted drafts come with the token after them."""
        gaps = [flight.end - r.last_token for r in flight.decodes]
        extra = sum(self._extra.get(r, 0) for r in flight.decodes)
        self.gaps.clear()
        self.iterations.clear()
        super().land(flight)
        restarts = self.gaps[len(gaps) + extra :]
        usual = gaps[0] if gaps else 0
        prompts = sum(tokens for _, tokens in flight.parts)
        self._leaps.append((
            flight.start, flight.end - flight.start, 0, usual, 1, len(gaps), prompts, len(flight.parts), flight.queue,
            flight.used,
        ))  # fmt: skip
        if extra:
            self._odd_gaps.append((0, extra))
        note_odd_gaps(self._odd_gaps, gaps, usual, restarts)

    def drop(self, request: Request, now: int) -> None:
        """Let a request go that will not finish."""
        self.acceptance.forget(request)
        super().drop(request, now)

    def finish(self, flight: SimpleNamespace) -> None:
        """Let go of requests that are complete."""
        for request in flight.done:
            self.acceptance.forget(request)
        super().finish(flight)
