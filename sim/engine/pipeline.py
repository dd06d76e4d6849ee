"""A domain with pipeline stages: as many batches in flight as stages, each request in at most one. No leaps."""

from __future__ import annotations

from collections import deque

from simpy.events import Event

from ..core import Request, Step
from ..events import Moment
from .domain import Domain
from .rank import Batch


class Flight:
    """A batch under way; ticks.

    pure : of its decodes with nothing beside them and no stage to wait for. own : of its prompt parts, each alone,
    likewise.
    """

    def __init__(self, batch: Batch, start: int, end: int, host: int, pure: int, own: list[int]) -> None:
        self.batch, self.start, self.end = batch, start, end
        self.host, self.pure, self.own = host, pure, own


class PipelineDomain(Domain):
    """Batches pass the stages in order; a stage that has to wait for the one before it is a bubble.

    As in vLLM v1, a batch is formed as soon as fewer batches than stages are in flight.
    """

    def _set_up(self) -> None:
        self.flights: deque[Flight] = deque()
        self._stage_free = [0] * len(self.cost.stages)
        self._landings: set[Event] = set()  # still to come; a crash forgets them

    def arrive(self, request: Request) -> None:
        """A request reaches the engine's door."""
        self.inbox.append(request)
        if len(self.flights) < len(self._stage_free):
            self._wake_now()

    def _interrupt(self) -> None:
        """Look now, unless the next boundary comes when a batch returns."""
        if len(self.flights) < len(self._stage_free):
            self._wake_now()

    def free_now(self) -> int:
        """KV blocks that are free now."""
        return self.rank.pool.free

    def prompts_under_way(self) -> list[tuple[int, int]]:
        """(tokens to compute, tokens in the cache) of the prompts in flight."""
        parts = [r for flight in self.flights for r, _ in flight.batch.parts]
        return [(r.target - r.computed, r.computed) for r in parts]

    def outlook(self) -> tuple[int, int]:
        """Batches come and go at any time."""
        return self.rank.pool.free, self.env.now

    def crash(self) -> list[Request]:
        """Lose everything, now."""
        self.flights.clear()
        self._landings.clear()
        self._stage_free = [0] * len(self.cost.stages)
        return super().crash()

    def _book_until(self, now: int) -> bool:
        """Whole batches are booked as they land."""
        return False

    def stop(self, now: int) -> None:
        """The run is cut off; whole batches are booked as they land, so there is nothing to do."""

    def _boundary(self, event: Event) -> None:
        if event is self._alarm:
            self._alarm = None
        elif event in self._landings:
            self._landings.remove(event)
        else:
            return
        now = self.env.now
        self.turn.tick, self.turn.place = now, self.place
        self._land_due(now)
        if self.inbox:
            self._take_in(now)
        if self.quitting:
            flying = [r for r in self.quitting if self._in_flight(r)]
            self.quitting = [r for r in self.quitting if r not in flying]
            self._drop_cancelled(now)
            self.quitting = flying
        if self.errands:
            self._run_errands(now)
        self._fill(now)

    def _land_due(self, now: int) -> None:
        while self.flights and self.flights[0].end <= now:
            self._land(self.flights.popleft())

    def _fill(self, now: int) -> None:
        """Form batches while another one may be in flight."""
        while len(self.flights) < len(self._stage_free):
            step = self._decide(now)
            if step is None:
                break
            self._launch(step, now)

    def _in_flight(self, request: Request) -> bool:
        batches = [flight.batch for flight in self.flights]
        return any(
            (request.cohort is not None and request.cohort in b.cohorts) or any(request is r for r, _ in b.parts)
            for b in batches
        )

    def _launch(self, step: Step, now: int) -> None:
        """Send a batch down the pipeline: each stage takes it when it has it and has finished the one before."""
        cost = self.cost
        batch = self.rank.launch(step, now)
        self.rank.flying.append(batch)
        decodes, context_sum, low, high = self._composition(batch, step)
        tokens = decodes + sum(tokens for tokens, _ in batch.chunks)
        host = cost.host(decodes + len(batch.chunks))
        hop = cost.hop(tokens)
        ready = now + host + (0 if self.rank.host.overlaps else batch.copying)
        pure = 0
        own = [0] * len(batch.chunks)
        for number, stage in enumerate(cost.stages):
            duration, _, _, outside = stage.piece(batch.chunks, decodes, context_sum, low, high)
            if number:
                ready += hop
            ready = max(ready, self._stage_free[number]) + duration
            self._stage_free[number] = ready
            self.busy += duration
            self.outside += outside
            if not own:
                pure += duration
            elif decodes:
                pure += stage.piece((), decodes, context_sum, low, high)[0]
            for i, chunk in enumerate(batch.chunks):
                own[i] += stage.piece((chunk,), 0, 0, 0, 0)[0]
        for name, stages in cost.meters.items():
            for stage in stages:
                self.meters[name] += stage.piece(batch.chunks, decodes, context_sum, low, high)[0]
        self._stage_free[-1] = ready = max(ready, now + batch.copying)
        self.flights.append(Flight(batch, now, ready, host, pure, own))
        self._landings.add(Moment(self.env, ready, self.place, self._boundary))

    def _land(self, flight: Flight) -> None:
        """Book a batch that has passed the last stage."""
        batch, total = flight.batch, flight.end - flight.start
        for (request, _), alone in zip(batch.parts, flight.own, strict=True):
            request.own += alone
            request.phase_host += flight.host
        self.rank.flying.remove(batch)
        self._log(batch, 1, flight.start, total, 0)
        done = self.rank.complete(batch, 1, flight.start, total, flight.pure, flight.host)
        self.rank.finish(done, flight.end)
        if self.rank.restart_gaps:
            self._log_restarts()
