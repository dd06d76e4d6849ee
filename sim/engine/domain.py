"""A domain: owns the time of one rank. This is the main loop: compose, launch, leap, complete, and again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from simpy.events import Event

from ...costmodels.base import CostModel, Piece
from ..core import FOREVER, Request, Step
from ..events import NEVER, Clock, Moment, Turn
from ..records import Recorder
from .adapters import Beside
from .cohort import Cohort
from .leap import first_boundary, span
from .rank import Batch, Rank
from .witness import Witness

Errand = tuple[Callable[[int], bool], Request | None]


class Domain:
    """One rank with one batch in flight.

    place : rank among simultaneous events; arrivals have place 0, so at equal ticks they come first.
    gone : called with a request that was cancelled or that nothing can ever admit, once the rank has dropped it,
        and the tick.
    step_by_step : never leap, but assert at each iteration the promises that would have allowed it.
    """

    def __init__(
        self, env: Clock, turn: Turn, place: int, rank: Rank, cost: CostModel, recorder: Recorder, number: int,
        gone: Callable[[Request, int], None], step_by_step: bool = False,
    ) -> None:  # fmt: skip
        self.env = env
        self.turn = turn
        self.place = place
        self.rank = rank
        self.cost = cost
        self._piece = cost.stages[0].piece
        self._host_ticks = cost.host
        self.meters = dict.fromkeys(cost.meters, 0)
        self._meter_pieces = [stages[0].piece for stages in cost.meters.values()]
        self._metered: list[Piece] = []
        self.gone = gone
        self.leaps = recorder.leaps[number]
        self.odd_gaps = recorder.odd_gaps[number]
        self.inbox: list[Request] = []  # arrived since the last boundary
        self.quitting: list[Request] = []  # cancelled since the last boundary
        self.errands: list[Errand] = []
        self._preemptions = 0  # of the rank when the errands were last asked
        self.busy = 0  # accelerator and host ticks
        self.outside = 0  # accelerator ticks that rest on look-ups outside what was measured
        self.beside: Beside | None = None  # adapters or remote attention
        self.onlooker: Any = None  # whom it tells of each decision
        self.batch: Batch | None = None  # in flight
        self.step = Step()
        self.start = self.base = self.slope = self.iterations = self._host = 0
        self._outside = 0
        self._pure = (0, 0)  # piece of the batch's decodes with nothing beside them
        self._own: list[tuple[int, int]] = []  # pieces of its prompt parts, each alone
        self._alarm: Moment | None = None
        self._witness = Witness() if step_by_step else None
        self._set_up()

    def _set_up(self) -> None:
        """What a subclass has beside all this."""

    # -- what happens to it --------------------------------------------------------------------------------------

    def arrive(self, request: Request) -> None:
        """A request reaches the engine's door, where the engine looks at every iteration boundary."""
        self.inbox.append(request)
        if self.batch is None:
            self._wake_now()
        elif self.iterations > 1:
            k = self._next_boundary()
            if request.queued < 0:
                request.queued = self._boundary_after(k)
            if self.step.wake_on_arrival:
                self._cut(k)
        if self._witness and self.step.wake_on_arrival:
            self._witness.release()

    def cancel(self, request: Request) -> None:
        """The client of a live request has gone; the engine notices at its next boundary."""
        self.quitting.append(request)
        self._interrupt()

    def at_boundary(self, errand: Callable[[int], bool], request: Request | None = None) -> None:
        """Call `errand(now)` at the next iteration boundary at which `request` is not in flight; if it returns False,
        again whenever blocks or slots may have become free.

        Errands look only at this engine's blocks, slots and requests; whom they concern elsewhere learns it later.
        """
        self.errands.append((errand, request))
        self._interrupt()

    def _interrupt(self) -> None:
        """Have a boundary soon: now if idle, else where the iteration under way ends."""
        if self.batch is None:
            self._wake_now()
        elif self.iterations > 1:
            self._cut(self._next_boundary())
        if self._witness:
            self._witness.release()

    def free_now(self) -> int:
        """KV blocks that are free now, in the middle of a leap too."""
        free = self.rank.pool.free
        if self.batch is not None and self.iterations > 1:
            free -= self.rank.extra_blocks(self.batch, self._next_boundary())
        return free

    def lasts(self, blocks: int) -> int:
        """The tick before which at least so many KV blocks stay free unless it decides anew or a request arrives."""
        if self.rank.pool.free < blocks:
            return self.env.now
        if self.batch is None:
            return NEVER
        k = self.rank.affordable(self.batch, self.iterations, blocks)
        return NEVER if k == self.iterations else self._boundary_after(k)

    def cached_now(self, request: Request) -> int:
        """Blocks of a prompt that its prefix cache has, in the middle of a leap too: what that has evicted is gone."""
        rank, batch = self.rank, self.batch
        promised: dict[int, int] = {}
        taken = 0
        if batch is not None and self.iterations > 1:
            k = self._next_boundary()
            taken = rank.extra_blocks(batch, k)
            for other, tokens in batch.parts:
                rank.promise(other, other.computed + k * tokens, promised)
        return rank.lookup(request, promised, taken)[0]

    def prompts_under_way(self) -> list[tuple[int, int]]:
        """(tokens to compute, tokens in the cache) of the prompts in flight, as the iteration under way began."""
        if self.batch is None or not self.batch.parts:
            return []
        before = self._next_boundary() - 1
        done = [(r, r.computed + before * tokens) for r, tokens in self.batch.parts]
        return [(r.target - computed, computed) for r, computed in done]

    def outlook(self) -> tuple[int, int]:
        """KV blocks that are free now, and the tick until which an onlooker sees nothing change unless somebody
        arrives; now, if it cannot be told."""
        if self.batch is None:
            return self.rank.pool.free, self.env.now
        k = self._next_boundary()
        free = self.rank.pool.free - (self.rank.extra_blocks(self.batch, k) if self.iterations > 1 else 0)
        return free, self._boundary_after(k)

    def stop(self, now: int) -> None:
        """The run is cut off: book the iterations that have ended before `now`."""
        self._book_until(now)

    def _book_until(self, now: int) -> bool:
        """Book the iterations of a leap that have ended before `now`; True if there are any."""
        if self.batch is not None:
            done = first_boundary(self.base, self.slope, now - self.start, False) - 1
            if 0 < done < self.iterations:
                self.iterations = done
                self._complete(self.batch, self.start + span(self.base, self.slope, done))
                return True
        return False

    def crash(self) -> list[Request]:
        """Lose everything, now; returns the requests that were here. What an iteration under way had done is lost."""
        lost = self.rank.crash(None if self._book_until(self.env.now) else self.batch) + self.inbox
        for request in self.inbox:
            if request.queued >= self.env.now:  # it was to be taken in at a boundary that does not come
                request.queued = -1
        self.batch, self.iterations, self._alarm = None, 0, None
        self.inbox, self.quitting, self.errands = [], [], []
        if self._witness:
            self._witness.release()
        return lost

    def change_cost(self, cost: CostModel) -> None:
        """From the next iteration on it takes other times."""
        self.at_boundary(partial(self._set_cost, cost))

    def _set_cost(self, cost: CostModel, _: int) -> bool:
        self.cost, self._piece, self._host_ticks = cost, cost.stages[0].piece, cost.host
        return True

    def _next_boundary(self) -> int:
        """Iterations of the leap that have begun: its next boundary is the end of that many."""
        now = self.env.now
        past_mine = self.turn.tick == now and self.turn.place >= self.place
        return first_boundary(self.base, self.slope, now - self.start, past_mine)

    def _cut(self, k: int) -> None:
        """End the leap after `k` iterations."""
        if k < self.iterations:
            self.iterations = k
            self._wake_at(self._boundary_after(k))

    def _boundary_after(self, k: int) -> int:
        """When the engine decides what follows the first `k` iterations."""
        return self.start + span(self.base, self.slope, k)

    def _wake_now(self) -> None:
        if self._alarm is None:
            self._wake_at(self.env.now)

    def _wake_at(self, tick: int) -> None:
        self._alarm = Moment(self.env, tick, self.place, self._boundary)

    # -- the loop ------------------------------------------------------------------------------------------------

    def _boundary(self, event: Event) -> None:
        if event is not self._alarm:  # a leap that was cut: its old end means nothing
            return
        self._alarm = None
        env, turn, now = self.env, self.turn, self.env.now
        turn.place = self.place
        while True:
            turn.tick = now
            if self.batch is not None:
                self._complete(self.batch, now)
            if self.inbox or self.quitting or self.errands:
                self._attend(now)
            if not self._begin(now, now):
                return
            now += self.base if self.iterations == 1 else span(self.base, self.slope, self.iterations)
            if now >= env.peek():
                self._wake_at(now)
                return
            # Nothing else happens anywhere before this leap ends: no need to go through the event queue.

    def _begin(self, now: int, start: int) -> bool:
        """Decide now, launch at `start`, and find out how far the decision carries. False if there is nothing to do."""
        step = self._decide(now)
        if self.onlooker is not None:
            self.onlooker.touch()
        if step is None:
            self.batch, self.iterations = None, 0
            return False
        rank = self.rank
        self.batch = batch = rank.launch(step, start)
        self.step, self.start = step, start
        chunks = batch.chunks
        if batch.decodes and len(batch.cohorts) == 1 and not step.ghosts and not self.cost.extremes:
            decodes, context_sum, low, high = batch.decodes, batch.cohorts[0].context_sum, 0, 0
        else:
            decodes, context_sum, low, high = self._composition(batch, step)
        base, slope, limit, self._outside = self._piece(chunks, decodes, context_sum, low, high)
        if step.iterations < limit:
            limit = step.iterations
        if self.beside:
            base += self.beside.iteration((r for c in batch.cohorts for r in c.members), batch.parts)
        if self._meter_pieces:
            self._metered = [meter(chunks, decodes, context_sum, low, high) for meter in self._meter_pieces]
            limit = min(limit, *(valid for _, _, valid, _ in self._metered))
        if chunks:
            limit = min(limit, self._price_alone(batch, decodes, context_sum, low, high))
        else:
            self._pure = (base, slope)
        if self._witness:
            self._witness.check(step, rank.preempted, base, slope, limit)
            limit = 1
        self._host = host = self._host_ticks(decodes + len(chunks))
        base += host
        if self.beside:
            stall = self.beside.stall(start)
            base, limit = base + stall, 1 if stall else limit
        if batch.copying:
            base, limit = max(base, batch.copying) if rank.host.overlaps else base + batch.copying, 1
        if limit > 1 and decodes:
            for cohort in batch.cohorts:
                finish = cohort.next_finish()
                if finish < limit:
                    limit = finish
        if limit > 1:
            limit = rank.affordable(batch, limit, rank.kv.spare)
            if self.errands and (rank.preemptions > self._preemptions or (rank.caching and chunks)):
                limit = 1  # what an errand waits for may have come after it was asked
        self.base, self.slope, self.iterations = base, slope, limit
        return True

    def _decide(self, now: int) -> Step | None:
        """The policy's next step, or None when there is nothing to do."""
        rank = self.rank
        step = rank.next_step(now)
        while step.empty():
            if rank.blocked:
                rank.forget_held_back()
                return None
            if rank.preempted:  # the next step may admit those whom this one preempted
                if self._witness:
                    self._witness.release()
            else:
                stuck = rank.stuck()
                if stuck is None:
                    return None
                rank.drop(stuck)
                self.gone(stuck, now)
            step = rank.next_step(now)
        return step

    def _composition(self, batch: Batch, step: Step) -> tuple[int, int, int, int]:
        """Decodes of a batch, the sum of their contexts and, for cost models that ask, the least and the greatest."""
        decodes = batch.decodes
        if not decodes:
            return 0, 0, 0, 0
        cohorts = batch.cohorts
        context_sum = cohorts[0].context_sum if len(cohorts) == 1 else sum(c.context_sum for c in cohorts)
        low = high = 0
        if self.cost.extremes:
            ranges = [c.extremes() for c in cohorts]
            low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
        if step.ghosts:  # padding costs like the average decode beside it
            context_sum += context_sum // decodes * step.ghosts
            decodes += step.ghosts
        return decodes, context_sum, low, high

    def _price_alone(self, batch: Batch, decodes: int, context_sum: int, low: int, high: int) -> int:
        """Price each part of a mixed batch by itself, to attribute time. Returns how long those pieces hold."""
        piece = self._piece
        valid = FOREVER
        if decodes:
            pure, growth, valid, _ = piece((), decodes, context_sum, low, high)
            self._pure = (pure, growth)
        self._own = own = []
        for chunk in batch.chunks:
            alone, growth, holds, _ = piece((chunk,), 0, 0, 0, 0)
            own.append((alone, growth))
            if holds < valid:
                valid = holds
        return valid

    def _complete(self, batch: Batch, now: int) -> None:
        """Book the leap that ends now."""
        k, start = self.iterations, self.start
        total = now - start
        host = self._host * k
        if batch.parts:
            for (request, _), (alone, growth) in zip(batch.parts, self._own, strict=True):
                request.own += alone if k == 1 else span(alone, growth, k)
                request.phase_host += host
        self.busy += total
        self.outside += self._outside * k
        for name, (base, slope, _, _) in zip(self.meters, self._metered, strict=False):
            self.meters[name] += span(base, slope, k)
        self._log(batch, k, start, self.base, self.slope)
        pure, growth = self._pure
        done = self.rank.complete(batch, k, start, total, pure if k == 1 else span(pure, growth, k), host)
        if self.rank.restart_gaps:
            self._log_restarts()
        if done:
            self._finish(done, now)

    def _finish(self, done: list[Request], now: int) -> None:
        """Let go of those whose last token has come."""
        self.rank.finish(done, now)
        if self._witness:
            self._witness.release()

    def _log(self, batch: Batch, k: int, start: int, base: int, slope: int) -> None:
        rank = self.rank
        decodes, chunks, cohorts = batch.decodes, batch.chunks, batch.cohorts
        gap = tokens = 0
        if decodes:
            end = start + base
            gap = end - cohorts[0].ends
            if len(cohorts) > 1 or cohorts[0].late:
                for cohort in cohorts:
                    self._log_odd_gaps(cohort, end, gap)
        if chunks:
            tokens = chunks[0][0] if len(chunks) == 1 else sum([tokens for tokens, _ in chunks])
        used = rank.total_blocks - rank.pool.free
        self.leaps.append((start, base, slope, gap, k, decodes, tokens, len(chunks), len(rank.waiting), used))

    def _log_odd_gaps(self, cohort: Cohort, end: int, gap: int) -> None:
        """Correct the log where a member's last token came at another time than its cohort's, or the first cohort's."""
        others = cohort.count
        for token_time, count in cohort.late.items():
            self.odd_gaps.append((end - token_time, count))
            self.odd_gaps.append((gap, -count))
            others -= count
        if end - cohort.ends != gap:
            self.odd_gaps.append((end - cohort.ends, others))
            self.odd_gaps.append((gap, -others))

    def _log_restarts(self) -> None:
        for gap in self.rank.restart_gaps:
            self.odd_gaps.append((gap, 1))
        self.rank.restart_gaps.clear()

    def _attend(self, now: int) -> None:
        """See to what has come up since the last boundary."""
        if self.inbox:
            self._take_in(now)
        if self.quitting:
            self._drop_cancelled(now)
        if self.errands:
            self._run_errands(now)

    def _take_in(self, now: int) -> None:
        for request in self.inbox:
            if request.queued < 0:
                request.queued = now
            self.rank.waiting.push(request)
        self.inbox.clear()

    def _drop_cancelled(self, now: int) -> None:
        for request in self.quitting:
            if not request.over and request.engine is self:  # it may have ended or left meanwhile
                self.rank.drop(request)
                self.gone(request, now)
        self.quitting.clear()

    def _run_errands(self, now: int) -> None:
        """Ask the errands, and again as long as one is done, for it may have made room for another."""
        done = True
        while done and self.errands:
            done, asked, self.errands = False, self.errands, []
            for errand, request in asked:
                if (request is not None and self._in_flight(request)) or not errand(now):
                    self.errands.append((errand, request))
                else:
                    done = True
            if done and self._witness:
                self._witness.release()
        self._preemptions = self.rank.preemptions

    def _in_flight(self, request: Request) -> bool:
        """Whether a batch under way across this boundary computes for `request`: with one batch, none does."""
        return False
