"""The list-walking engine: the plainest loop that serves the same policies, one iteration and one request at a time.

No cohorts, no leaps, no closed forms, and O(batch) everywhere: tests hold the fast engine against it, and the real
engine's loop is modelled on it. It stands in for a `Domain` and is its own `core.RankView`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

from simpy.events import Event

from ...costmodels.base import CostModel
from ..core import BatchPolicy, Limits, QueuePolicy, Request, Step
from ..events import Clock, Moment, Turn
from ..kv.pool import BlockPool
from ..kv.swapspace import SwapSpace
from .adapters import Beside
from .domain import Errand
from .queues import live, make_queue, ranked


class ListEngine:
    """One engine on lists. Arguments as `Rank` and `Domain`; `iterations` and `gaps` are its log."""

    batch = None  # no leaps

    def __init__(
        self, env: Clock, turn: Turn, place: int, limits: Limits, policy: BatchPolicy, queue: QueuePolicy,
        blocks: int, lengths: Sequence[int], ended: Callable[[Request, int], None],
        gone: Callable[[Request, int], None],
        cost: CostModel, host: SwapSpace | None = None, pool: BlockPool | None = None, ahead: bool = False,
    ) -> None:  # fmt: skip
        self.env, self.turn, self.place = env, turn, place
        self.limits, self.policy, self.kv, self.queue = limits, policy, policy.kv, queue
        self.lengths, self.ended, self.gone, self.cost = lengths, ended, gone, cost
        self.total_blocks, self.host = blocks, host or SwapSpace()
        self.pool = pool or BlockPool(blocks)
        self.caching, self.lookup, self.promise = self.pool.caching, self.pool.lookup, self.pool.promise
        self.path = self.pool.path
        self.fifo, self.queue_key = queue.fifo, queue.key
        self.now = 0
        self.blocked = False  # somebody waits until a request in flight can be preempted
        self.inbox: list[Request] = []
        self.quitting: list[Request] = []
        self.errands: list[Errand] = []
        self.patient = False
        self.claimed = self.epoch = 0  # blocks of requests that are not scheduled here; crashes
        self.landings: set[Event] = set()
        self.pins: Any = None
        self.hand_off: Callable[[Request, int], bool] | None = None
        self.waiting: Any = make_queue(queue, self) if live(queue) else []
        self.swapped: list[Request] = []
        self.active: list[Request] = []  # the running list, in list order
        self.flying: set[Request] = set()
        self.held_back: list[Request] = []
        self.flights: list[SimpleNamespace] = []
        self.stage_free = [0] * len(cost.stages)
        self.beside: Beside | None = None  # adapters or remote attention
        self.ahead = ahead  # asynchronous scheduling: see `asynchronous`
        self.begin = 0  # when the batch at hand starts
        self.preempted = self.preemptions = self.admissions = self.steps = 0
        self.iterations: list[tuple[int, int, int, int]] = []  # start, ticks, decodes, prompt tokens
        self.gaps: list[int] = []  # ticks between any two consecutive tokens of a request
        self.rank = self  # where a router looks
        self.alarm: Event | None = None

    # -- the view ------------------------------------------------------------------------------------------------

    def ordered(self) -> list[Request]:
        return [r for r in self.active if r not in self.flying | self.leaving and r not in self.held_back]

    @property
    def leaving(self) -> set[Request]:
        """Whose last token is on its way, with asynchronous scheduling."""
        return {r for flight in self.flights for r in flight.done}

    @property
    def prefills(self) -> list[Request]:
        return [r for r in self.ordered() if r.computed < r.target]

    def ranked(self, requests: Iterable[Request]) -> list[Request]:
        return ranked(self.queue, requests, self)

    def decoding(self) -> list[Request]:
        return [r for r in self.ordered() if r.computed >= r.target]

    @property
    def decodes(self) -> int:
        return len(self.decoding())

    @property
    def decode_demand(self) -> int:
        return sum(self.growth(r, 0) for r in self.decoding())

    @property
    def running(self) -> int:
        return len(self.active)

    @property
    def free_blocks(self) -> int:
        return self.pool.free

    def free_now(self) -> int:
        return self.pool.free

    def cached_now(self, request: Request) -> int:
        return self.lookup(request, {})[0]

    # -- what happens to it --------------------------------------------------------------------------------------

    def arrive(self, request: Request) -> None:
        self.inbox.append(request)
        self.wake_if_idle()

    def prompts_under_way(self) -> list[tuple[int, int]]:
        parts = [r for flight in self.flights for r, _ in flight.parts]
        return [(r.target - r.computed, r.computed) for r in parts]

    def outlook(self) -> tuple[int, int]:
        return self.pool.free, self.env.now

    def stop(self, now: int) -> None:
        """The run is cut off: nothing is booked before its end here."""

    def crash(self) -> list[Request]:
        lost = [*self.active, *self.swapped, *self.waiting, *self.inbox]
        self.waiting.clear()
        self.host.clear()
        self.pool.clear()
        self.flights, self.stage_free, self.alarm = [], [0] * len(self.stage_free), None
        self.landings, self.flying = set(), set()
        self.inbox, self.quitting, self.errands, self.swapped, self.active = [], [], [], [], []
        self.held_back, self.claimed, self.epoch = [], 0, self.epoch + 1
        return lost

    def change_cost(self, cost: CostModel) -> None:
        self.at_boundary(partial(self.set_cost, cost))

    def set_cost(self, cost: CostModel, _: int) -> bool:
        self.cost = cost
        return True

    def cancel(self, request: Request) -> None:
        self.quitting.append(request)
        self.wake_if_idle()

    def at_boundary(self, errand: Callable[[int], bool], request: Request | None = None) -> None:
        self.errands.append((errand, request))
        self.wake_if_idle()

    def wake_if_idle(self) -> None:
        if len(self.flights) < (1 if self.ahead else len(self.stage_free)) and self.alarm is None:
            self.alarm = Moment(self.env, self.env.now, self.place, self.boundary)

    # -- the loop ------------------------------------------------------------------------------------------------

    def boundary(self, event: Event) -> None:
        if event is self.alarm:
            self.alarm = None
        elif event in self.landings:
            self.landings.remove(event)
            if self.ahead and self.alarm:  # due at this very tick
                return
        else:
            return
        self.now = self.env.now
        self.turn.tick, self.turn.place = self.now, self.place
        while self.flights and self.flights[0].end <= self.now:
            flight = self.flights.pop(0)
            if not self.ahead:
                self.land(flight)
            self.finish(flight)
        for request in self.inbox:
            if request.queued < 0:
                request.queued = self.now
            self.enqueue(request, at_head=False)
        self.inbox.clear()
        for request in [r for r in self.quitting if r not in self.flying]:
            self.quitting.remove(request)
            if not request.over and request.engine is self and request not in self.leaving:
                self.drop(request, max(self.now, self.stage_free[-1]) if self.ahead else self.now)
        self.run_errands()
        while self.may_launch():
            step = self.decide()
            if step is None:
                break
            self.launch(step)

    def may_launch(self) -> bool:
        if self.ahead:  # one batch runs and one waits for it
            return all(flight.start <= self.now for flight in self.flights) and self.alarm is None
        return len(self.flights) < len(self.stage_free)

    def run_errands(self) -> None:
        done = True
        while done:
            asked = self.errands
            self.errands = [(e, r) for e, r in asked if r in self.flying or not e(self.now)]
            done = len(self.errands) < len(asked)

    def decide(self) -> Step | None:
        while True:
            self.preempted = 0
            self.blocked = False
            self.held_back = []
            step = self.policy.compose(self)
            while step.preempt or (self.pins and self.pins.change(step)) or self.make_room(step):
                for request in step.preempt:
                    self.preempt(request)
                self.preempted += len(step.preempt)
                step = self.policy.compose(self)
            if not step.empty():
                return step
            if self.blocked:
                self.held_back = []
                return None
            if self.preempted:
                continue
            stuck = (
                None
                if self.active or self.claimed or self.patient
                else next(iter([*self.swapped, *self.waiting]), None)
            )
            if stuck is None:
                return None
            self.drop(stuck, self.now)

    def growth(self, request: Request, tokens: int) -> int:
        """Blocks that one more iteration takes: a decode writes one token, a chunk writes `tokens`."""
        if request.computed >= request.target:
            tokens = 1
            if not self.kv.grows:
                return 0
        kept = min(request.computed + tokens, self.limits.outgrown)
        held = self.limits.fixed_blocks + math.ceil(kept / self.limits.block_size)
        return max(0, held - request.blocks)

    def make_room(self, step: Step) -> bool:
        """Preempt until whatever goes on running can grow; True if anybody had to go."""
        chunks = dict(step.chunks)
        if not step.decodes and not chunks:
            return False
        before = self.preemptions
        granted: list[Request] = []
        left = self.ordered()

        def need(request: Request) -> int:
            idle = request.computed >= request.target and not step.decodes
            return 0 if idle else self.growth(request, chunks.get(request, 0))

        while left:
            request = left[0]
            see = self.kv.spare if request.computed >= request.target and step.decodes else 0
            if self.pool.free - sum(need(r) for r in granted) >= max(need(request), see):
                granted.append(left.pop(0))
                continue
            victim = self.kv.victim(sorted([*granted, *left, *self.flying], key=lambda r: r.order))
            if victim in self.flying:
                self.blocked = True
                self.held_back += left
                self.preempted += 1
                return True
            (granted if victim in granted else left).remove(victim)
            self.preempt(victim)
            if victim is request:
                self.held_back += left
                break
        self.preempted += self.preemptions - before
        return self.preemptions > before

    def launch(self, step: Step) -> None:
        self.begin = max(self.now, self.stage_free[0]) if self.ahead else self.now
        observe = getattr(self.policy, "observe", None)
        if observe:
            observe(step)
        for request in step.resume:
            self.swapped.remove(request)
            self.host.give_back(request, self.limits)
            self.pool.take(request.blocks)
            request.preemption += self.begin - request.last_token
            request.since = self.begin
            self.active.append(request)
        self.active.sort(key=lambda r: r.order)
        decodes = self.decoding()[: step.decodes]
        parts = list(step.chunks)
        for request, tokens in [(r, 0) for r in decodes] + parts:
            grown = self.growth(request, tokens)
            self.pool.take(grown)
            request.blocks += grown
            if tokens:
                self.pool.cover(request, request.computed + tokens)
        for request, tokens, blocks in step.admit:
            parts.append((request, self.admit(request, tokens, blocks)))
        self.held_back = []
        flight = SimpleNamespace(start=self.begin, decodes=decodes, parts=parts, done=[])
        self.compute(flight, step.ghosts)
        self.flights.append(flight)
        self.flying.update(decodes, (r for r, _ in parts))
        self.iterations.append((self.begin, flight.end - self.begin, len(decodes), sum(t for _, t in parts)))
        self.landings.add(Moment(self.env, flight.end, self.place, self.boundary))
        if self.ahead:
            self.land(flight)
            self.alarm = Moment(self.env, self.begin, self.place, self.boundary)

    def compute(self, flight: SimpleNamespace, ghosts: int) -> None:
        """Run a batch: when it ends, what it spends on the host, and what its decodes and each part take alone."""
        chunks = [(tokens, request.computed) for request, tokens in flight.parts]
        contexts = [r.computed for r in flight.decodes]
        contexts += [sum(contexts) // len(contexts)] * ghosts if contexts else []
        host = self.cost.host(len(contexts) + len(chunks))
        context = (len(contexts), sum(contexts), min(contexts, default=0), max(contexts, default=0))
        copying = self.host.begin()
        ready = self.begin + host + (0 if self.host.overlaps else copying)
        pure, own = 0, [0] * len(chunks)
        if self.beside:
            extra = self.beside.iteration(flight.decodes, flight.parts)
            ready += extra + self.beside.stall(self.begin)
            pure = 0 if chunks else extra
        hop = self.cost.hop(len(contexts) + sum(tokens for tokens, _ in chunks))
        for number, stage in enumerate(self.cost.stages):
            ready = max(ready + (hop if number else 0), self.stage_free[number]) + stage.piece(chunks, *context)[0]
            self.stage_free[number] = ready
            if contexts:
                pure += stage.piece((), *context)[0]
            own = [ticks + stage.piece((c,), 0, 0, 0, 0)[0] for ticks, c in zip(own, chunks, strict=True)]
        self.stage_free[-1] = ready = max(ready, self.begin + copying)
        flight.end, flight.host, flight.pure, flight.own = ready, host, pure, own

    def admit(self, request: Request, tokens: int, blocks: int) -> int:
        self.waiting.remove(request)
        request.blocks = blocks
        self.pool.admit(request)
        tokens = min(tokens, request.target - request.computed)
        self.pool.cover(request, request.computed + tokens)
        request.order = request.index if self.kv.arrival_order else self.admissions
        self.admissions += 1
        self.active.append(request)
        self.active.sort(key=lambda r: r.order)
        if request.scheduled < 0:
            request.scheduled = self.begin
            request.queueing = self.begin - request.arrival
            request.cached_tokens = request.computed
        elif request.generated == 0:
            request.preemption += self.begin - request.phase_start
        request.phase_start, request.own, request.phase_host = self.begin, 0, 0
        if self.pins:
            self.pins.admitted(request)
        return tokens

    def land(self, flight: SimpleNamespace) -> None:
        done = flight.done
        self.steps += 1
        self.flying.difference_update(flight.decodes, (r for r, _ in flight.parts))
        for request in flight.decodes:
            request.computed += 1
            request.target = request.computed
            spent = flight.end - request.since
            request.decode += flight.pure
            request.host += flight.host
            request.interference += spent - flight.pure - flight.host
            self.gaps.append(flight.end - request.last_token)
            done += self.token(request, flight.end)
        done.sort(key=lambda r: r.index)
        for (request, tokens), alone in zip(flight.parts, flight.own, strict=True):
            request.computed += tokens
            request.own += alone
            request.phase_host += flight.host
            if request.computed < request.target:
                continue
            if request.generated:
                request.preemption += flight.end - request.since
                self.gaps.append(flight.end - request.last_token)
            else:
                request.first_token = flight.end
                request.prefill, request.host = request.own, request.phase_host
                request.first_host = request.phase_host
                request.interference += flight.end - request.phase_start - request.own - request.phase_host
                request.first_interference = request.interference
            last = self.token(request, flight.end)
            done += last
            if not last and self.hand_off and self.hand_off(request, flight.end):
                self.active.remove(request)

    def finish(self, flight: SimpleNamespace) -> None:
        for request in flight.done:
            self.surrender(request)
            if not (self.pins and self.pins.keep(request, flight.end)):
                self.pool.release(request)
            self.host.forget(request)
            self.ended(request, flight.end)

    def token(self, request: Request, now: int) -> list[Request]:
        """Credit a token; the request itself if it was the last."""
        request.generated += 1
        request.last_token = request.since = now
        return [request] if request.generated == self.lengths[request.index] else []

    def adopt(self, request: Request, now: int) -> None:
        request.target = request.computed
        request.since = now
        request.order = request.index if self.kv.arrival_order else self.admissions
        self.admissions += 1
        self.active.append(request)
        self.active.sort(key=lambda r: r.order)

    def surrender(self, request: Request) -> None:
        self.active.remove(request)

    def release(self, request: Request, preempted: bool = False) -> None:
        self.surrender(request)
        self.pool.release(request, preempted)

    def preempt(self, request: Request) -> None:
        decoding = request.computed >= request.target
        self.release(request, preempted=True)
        request.preemptions += 1
        self.preemptions += 1
        if self.kv.swaps and decoding and self.host.take_in(request):
            self.swapped = sorted([*self.swapped, request], key=lambda r: r.order)
        else:
            request.computed = request.blocks = 0
            request.target = request.prompt_tokens + request.generated
            self.enqueue(request, at_head=True)

    def enqueue(self, request: Request, at_head: bool) -> None:
        if live(self.queue):
            self.waiting.push(request)
        elif not self.fifo:
            self.waiting.append(request)
            self.waiting.sort(key=lambda r: (self.queue.key(r), r.index))
        elif at_head:
            self.waiting.insert(0, request)
        else:
            self.waiting.append(request)

    def drop(self, request: Request, now: int) -> None:
        if request in self.active:
            self.release(request)
        elif request in self.swapped:
            self.swapped.remove(request)
            self.host.let_go(request)
        else:
            self.waiting.remove(request)
        self.host.forget(request)
        self.gone(request, now)
