"""Asynchronous scheduling, as vLLM v1 has it: a batch is decided while the one before it runs.

Source: vllm-project/vllm `v1/core/sched/async_scheduler.py` and `EngineCore.step_with_batch_queue`. What a batch will
do is known when it starts, so its tokens are booked then and the next decision builds on them; only the slots and
blocks of requests that end with it stay taken until it has ended, and an arrival waits one iteration longer.

Assumed: a request that reaches its length is known beforehand not to need another iteration (vLLM knows it from
`max_tokens`; a stop token would cost it one more, in vain).
"""

from __future__ import annotations

from collections.abc import Sequence

from simpy.events import Event

from ..core import Request
from .domain import Domain
from .leap import first_boundary, span


class AheadDomain(Domain):
    """A domain whose boundaries are the starts of its iterations: there it decides what runs after them."""

    ready = 0  # when the accelerator is through with all that was decided
    _done: Sequence[Request] = ()  # their last token comes at `ready`

    def _boundary(self, event: Event) -> None:
        if event is not self._alarm:
            return
        self._alarm = None
        env, turn, now = self.env, self.turn, self.env.now
        turn.place = self.place
        while True:
            turn.tick = now
            end = now
            if self._done and self.ready <= now:
                self._let_go(now)
                if self.batch is not None:
                    end = self._boundary_after(self.iterations)
            if end > now:  # the leap goes on: nobody wanted what has become free
                now = end
            elif (later := self._turn_over(now)) is None:
                return
            else:
                now = later
            if now >= env.peek():
                self._wake_at(now)
                return

    def _turn_over(self, now: int) -> int | None:
        """Book what has been under way, decide what comes after it, and say when to look again, if at all."""
        if self.batch is not None:
            self.ready = self.start + span(self.base, self.slope, self.iterations)
            self._complete(self.batch, self.ready)
        if self.inbox or self.quitting or self.errands:
            self._attend(now)
        if not self._begin(now, max(now, self.ready)):
            return self.ready if self.ready > now else None
        if not self._done:
            k = self.iterations
            return self.start if k == 1 else self.start + span(self.base, self.slope, k - 1)
        if not self._content():
            self.iterations = 1
        return self.start  # where they go

    def _drop_cancelled(self, now: int) -> None:
        """Whose last token is on its way will be gone without help."""
        self.quitting = [r for r in self.quitting if r not in self._done]
        super()._drop_cancelled(max(now, self.ready))

    def _content(self) -> bool:
        """Whether slots and blocks that become free would change no decision: nobody waits for any."""
        rank = self.rank
        return self.step.wake_on_arrival and not (rank.waiting or rank.swapped or self.errands)

    def _let_go(self, now: int) -> None:
        """The last tokens have come: those who waited for them leave."""
        done, self._done = self._done, ()
        self.rank.finish(done, now)
        if self._witness and not self._content():
            self._witness.release()

    def _finish(self, done: list[Request], now: int) -> None:
        self._done = done
        if self._witness:
            self._witness.release()

    def _next_boundary(self) -> int:
        now = self.env.now
        past_mine = self.turn.tick == now and self.turn.place >= self.place
        if now < self.start or (now == self.start and not past_mine):
            return 1
        return 1 + first_boundary(self.base, self.slope, now - self.start, past_mine)

    def _boundary_after(self, k: int) -> int:
        return self.start + span(self.base, self.slope, k - 1)

    def stop(self, now: int) -> None:
        """The run is cut off: book the iterations that began before `now`."""
        if self.batch is not None and now > self.start:
            begun = first_boundary(self.base, self.slope, now - self.start)
            if begun < self.iterations:
                self.iterations = begun
                self._complete(self.batch, self.start + span(self.base, self.slope, begun))
