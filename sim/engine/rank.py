"""A rank: one scheduler's queue, KV blocks and running requests, and every change of their state. No durations here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter

from ...costmodels.base import Chunk
from ..core import FOREVER, BatchPolicy, Limits, Part, QueuePolicy, Request, Step
from ..kv.pool import BlockPool
from ..kv.swapspace import SwapSpace
from .capped import CappedCohort
from .cohort import Cohort
from .keeper import Keeper
from .queues import live, make_queue, ranked

_order = attrgetter("order")


class Batch:
    """A launched iteration, or a leap of equal ones: what it computes and on whose behalf.

    granted : blocks that its decodes take in the first iteration.
    parts, chunks : prompt parts, and the same as (tokens, context).
    copying : ticks of the copies between device and host before it could start.
    """

    __slots__ = ("chunks", "cohorts", "copying", "decodes", "granted", "parts")

    def __init__(self, cohorts: list[Cohort], decodes: int, granted: int) -> None:
        self.cohorts = cohorts
        self.decodes = decodes
        self.granted = granted
        self.parts: Sequence[Part] = ()
        self.chunks: Sequence[Chunk] = ()
        self.copying = 0


class Rank:
    """What a policy decides about (`core.RankView`), and the hand that carries its decisions out.

    lengths : true output length by request index; the only copy, and no policy is given it.
    ended : called with a request whose last token has come, and the tick.
    host : its swap space; by default none.
    pool : of `blocks` KV blocks; by default one without prefix caching.
    """

    def __init__(
        self,
        limits: Limits,
        policy: BatchPolicy,
        queue: QueuePolicy,
        blocks: int,
        lengths: Sequence[int],
        ended: Callable[[Request, int], None],
        host: SwapSpace | None = None,
        pool: BlockPool | None = None,
    ) -> None:
        self.limits = limits
        self.policy = policy
        self.kv = policy.kv
        self._observe = getattr(policy, "observe", None)
        self.pool = pool or BlockPool(blocks)
        self.lookup, self.promise, self.caching = self.pool.lookup, self.pool.promise, self.pool.caching
        self.path = self.pool.path
        self.total_blocks = blocks
        self.host = host or SwapSpace()
        self.lengths = lengths
        self.ended = ended
        self.queue = queue
        self.waiting = make_queue(queue, self)
        self._live = live(queue)
        self.fifo, self.queue_key = queue.fifo, queue.key
        self.idle = [self._cohort()]  # the decodes that are not in flight
        self.prefills: list[Request] = []  # incomplete prompts that are not in flight, in list order
        self.swapped: list[Request] = []
        self.running = 0
        self.claimed = 0  # blocks of requests that are not scheduled here
        self.patient = False  # more blocks may come from elsewhere
        self.epoch = 0  # how often it has crashed
        self.pins: Keeper | None = None  # of programs that wait for a tool
        self.hand_off: Callable[[Request, int], bool] | None = None  # after its first token a request may go elsewhere
        self.now = self._start = 0
        self.preempted = 0  # since the last launch; one more where `blocked`
        self.blocked = False  # somebody waits until a request in flight can be preempted
        self.flying: list[Batch] = []  # where several batches are under way at once
        self.preemptions = 0  # in all
        self.steps = 0  # iterations computed
        self.restart_gaps: list[int] = []  # ticks between the last token before a recomputation and the first after it
        self.decodes = 0
        self.decode_demand = 0
        self.free_blocks = blocks
        self._held_back: list[Request] = []  # may not run in the next step
        self._admissions = 0

    def _cohort(self) -> Cohort:
        # Where a block holds more than any request (models with a constant state), nobody ever needs a second one.
        grows = self.kv.grows and self.limits.block_size <= self.limits.max_model_len
        return Cohort(self.limits, grows) if self.limits.outgrown == FOREVER else CappedCohort(self.limits, grows)

    def ordered(self) -> list[Request]:
        """Decodes and prefills that may run now, in list order."""
        running = [r for cohort in self.idle for r in cohort.members] + self.prefills
        if self._held_back:
            running = [r for r in running if r not in self._held_back]
        return sorted(running, key=_order)

    def ranked(self, requests: Iterable[Request]) -> list[Request]:
        """Requests in the queue policy's order."""
        return ranked(self.queue, requests, self)

    def decoding(self) -> list[Request]:
        """Requests that decode and are not in flight, in list order. O(n)."""
        return sorted([r for cohort in self.idle for r in cohort.members], key=_order)

    # -- deciding ------------------------------------------------------------------------------------------------

    def next_step(self, now: int) -> Step:
        """Ask the policy what to run; where the running requests cannot grow, preempt and ask again."""
        self.now = now
        self.preempted = 0
        self.blocked = False
        if self._held_back:
            self.forget_held_back()
        while True:
            self._look()
            step = self.policy.compose(self)
            if step.preempt:
                for request in step.preempt:
                    self.preempt(request)
                self.preempted += len(step.preempt)
                continue
            if self._live and step.iterations > 1:
                step.iterations = min(step.iterations, self._live.stands(step, self))
            if self.pins and self.pins.change(step):
                continue
            if not step.chunks and (not step.decodes or self.decode_demand + self.kv.spare <= self.free_blocks):
                return step
            if self._fits(step) or not self._make_room(step):
                return step

    def _look(self) -> None:
        """Bring the numbers that the policy sees up to date."""
        cohorts = self.idle
        if len(cohorts) == 1:
            cohort = cohorts[0]
            self.decodes = cohort.count
            self.decode_demand = cohort.ring[-cohort.runs % cohort.block_size]
        else:
            self.decodes = sum(c.count for c in cohorts)
            self.decode_demand = sum(c.demand() for c in cohorts)
        self.free_blocks = self.pool.free
        for request in self._held_back:
            if request.cohort:
                self.decodes -= 1
                self.decode_demand -= self._growth(request, 0)

    def _fits(self, step: Step) -> bool:
        """Whether enough blocks are free for all that goes on running. May err towards no."""
        need = self.decode_demand + self.kv.spare if step.decodes else 0
        for request, tokens in step.chunks:
            need += self._growth(request, tokens)
        return need <= self.pool.free

    def _growth(self, request: Request, tokens: int) -> int:
        """Blocks that one iteration of a running request takes: a decode, or a chunk of `tokens`."""
        if request.cohort:
            context = request.context()
            return int(self.kv.grows and context % self.limits.block_size == 0 and context < self.limits.outgrown)
        return max(0, self.limits.blocks(request.computed + tokens) - request.blocks)

    def _make_room(self, step: Step) -> int:
        """Walk the running list; whoever cannot grow costs the KV policy's victim its blocks. Counts victims."""
        chunks = dict(step.chunks)
        running = self.ordered()
        free = self.pool.free  # less what the walk has promised
        victims = place = 0

        def need(request: Request) -> int:
            return 0 if request.cohort and not step.decodes else self._growth(request, chunks.get(request, 0))

        while place < len(running):
            request = running[place]
            see = self.kv.spare if request.cohort and step.decodes else 0
            if free >= max(need(request), see):
                free -= need(request)
                place += 1
                continue
            victim = self.kv.victim(self._with_flying(running))
            if victim not in running:  # its blocks cannot be had before its batch has landed
                self.blocked = True
                self.preempted += 1
                self._hold_back(running[place:])
                return victims + 1
            at = running.index(victim)
            if at < place:  # what it was promised is free again
                free += need(victim)
                place -= 1
            del running[at]
            before = self.pool.free
            self.preempt(victim)
            free += self.pool.free - before
            victims += 1
            self.preempted += 1
            if victim is request:  # vLLM then leaves the rest of the list out of this step
                self._hold_back(running[place:])
                break
        return victims

    def _with_flying(self, running: list[Request]) -> list[Request]:
        """`running` and the requests in flight, in list order."""
        if not self.flying:
            return running
        decodes = [r for batch in self.flying for cohort in batch.cohorts for r in cohort.members]
        return sorted(running + decodes + [r for batch in self.flying for r, _ in batch.parts], key=_order)

    def _hold_back(self, requests: list[Request]) -> None:
        self._held_back += requests
        self.prefills = [r for r in self.prefills if r not in requests]

    # -- acting --------------------------------------------------------------------------------------------------

    def launch(self, step: Step, start: int) -> Batch:
        """Carry out a step that runs from `start` on: bring requests in, grant blocks, set apart what runs."""
        self._start = start
        if self._observe:
            self._observe(step)
        for request in step.resume:
            self._swap_in(request)
        cohorts = self.idle
        if step.resume or self._held_back or step.decodes != self.decodes:
            cohorts = self._first(step.decodes)
            batch = Batch(cohorts, step.decodes, sum(c.demand() for c in cohorts))
        else:
            if len(cohorts) > 1:
                cohorts = [c for c in cohorts if c.count]
            batch = Batch(cohorts, step.decodes, self.decode_demand)
            self.idle = []
        if batch.granted:
            self.pool.take(batch.granted)
        if self.host.copying:
            batch.copying = self.host.begin()
        if step.chunks or step.admit:
            self._launch_prompts(batch, step)
        if self._held_back:
            self.forget_held_back()
        return batch

    def _launch_prompts(self, batch: Batch, step: Step) -> None:
        parts: list[Part] = list(step.chunks)
        if parts:
            for request, tokens in parts:
                self._extend(request, request.computed + tokens)
            running = {request for request, _ in parts}
            self.prefills = [r for r in self.prefills if r not in running]
        for request, tokens, blocks in step.admit:  # last: a policy looks prefixes up as the others leave the memory
            parts.append((request, self._admit(request, tokens, blocks)))
        batch.parts, batch.chunks = parts, [(tokens, request.computed) for request, tokens in parts]

    def forget_held_back(self) -> None:
        """Who could not run this time may again."""
        self.prefills += [r for r in self._held_back if not r.cohort]
        self.prefills.sort(key=_order)
        self._held_back = []

    def affordable(self, batch: Batch, limit: int, spare: int) -> int:
        """How many iterations of a launched batch, 1 to `limit`, leave `spare` blocks free."""
        size = self.limits.block_size
        free = self.pool.free - spare
        if (limit // size + 1) * batch.decodes + sum([limit * tokens // size + 1 for _, tokens in batch.parts]) <= free:
            return limit
        low, high = 1, limit + 1  # the least and the greatest that are still possible, and one more
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.extra_blocks(batch, middle) <= free else (low, middle)
        return low

    def extra_blocks(self, batch: Batch, iterations: int) -> int:
        """Blocks that so many iterations of a launched batch take beyond the first one's."""
        need = sum([c.demand(iterations) for c in batch.cohorts]) - batch.granted if batch.decodes else 0
        for request, tokens in batch.parts:
            need += max(0, self.limits.blocks(request.computed + iterations * tokens) - request.blocks)
        return need

    def _first(self, decodes: int) -> list[Cohort]:
        """The first `decodes` idle decodes in list order, as cohorts of their own; the others stay idle."""
        if decodes == 0:
            return []
        chosen = set(sorted((r for c in self.idle for r in c.members), key=_order)[:decodes])
        run: list[Cohort] = []
        for cohort in self.idle:
            inside = [r for r in cohort.members if r in chosen]
            if len(inside) == cohort.count:
                run.append(cohort)
            elif inside:
                part = self._cohort()
                for request in inside:
                    self._move(request, cohort, part)
                run.append(part)
        self.idle = [c for c in self.idle if c not in run]
        return run

    def _move(self, request: Request, source: Cohort, target: Cohort) -> None:
        source.leave(request)
        remaining = self.lengths[request.index] - request.generated
        target.join(request, request.computed, remaining, request.last_token)

    def _admit(self, request: Request, tokens: int, blocks: int) -> int:
        now = self._start
        self.waiting.remove(request)
        request.blocks = blocks
        self.pool.admit(request)
        tokens = min(tokens, request.target - request.computed)  # more may be cached than the policy could tell
        self.pool.cover(request, request.computed + tokens)
        request.order = request.index if self.kv.arrival_order else self._admissions
        self._admissions += 1
        self.running += 1
        if request.scheduled < 0:
            request.scheduled = now
            request.queueing = now - request.arrival
            request.cached_tokens = request.computed
        elif not request.generated:  # preempted before its first token: what it had done is lost
            request.preemption += now - request.phase_start
        request.phase_start = now
        request.own = request.phase_host = 0
        if self.pins:
            self.pins.admitted(request)
        return tokens

    def _extend(self, request: Request, tokens: int) -> None:
        """Hold blocks for `tokens` tokens."""
        blocks = self.limits.blocks(tokens)
        if blocks > request.blocks:
            self.pool.take(blocks - request.blocks)
            request.blocks = blocks
        self.pool.cover(request, tokens)

    def complete(self, batch: Batch, iterations: int, start: int, total: int, pure: int, host: int) -> list[Request]:
        """Book a batch that ran `iterations` times from `start` for `total` ticks (see `Cohort.run`).

        Returns those whose last token came; `finish` lets go of them.
        """
        done: list[Request] = []
        cohorts = batch.cohorts
        self.steps += iterations
        if batch.decodes:
            if iterations > 1:
                self.pool.take(sum([c.demand(iterations) for c in cohorts]) - batch.granted)
            for cohort in cohorts:
                cohort.run(iterations, start, total, pure, host)
                if cohort.heap[0][0] <= cohort.runs:
                    done += cohort.finished()
        if self.idle or len(cohorts) > 1:
            self.idle = cohorts + self.idle
            self._merge(cohorts)
        else:
            self.idle = cohorts
        if batch.parts:
            self._complete_prompts(batch, iterations, start + total, done)
        return done

    def finish(self, done: Sequence[Request], now: int) -> None:
        """Let go of requests that are complete."""
        for request in done:
            self.running -= 1
            if not (self.pins and self.pins.keep(request, now)):
                self.pool.release(request)
            self.host.forget(request)
            self.ended(request, now)

    def _complete_prompts(self, batch: Batch, iterations: int, end: int, done: list[Request]) -> None:
        """Book the prompt parts; who has its only token joins `done`."""
        incomplete = False
        for request, tokens in batch.parts:
            request.computed += tokens * iterations
            if iterations > 1:
                self._extend(request, request.computed)
            if request.computed < request.target:
                self.prefills.append(request)
                incomplete = True
            elif self._prompt_done(request, end):
                done.append(request)
        if incomplete:
            self.prefills.sort(key=_order)

    def _merge(self, ran: list[Cohort]) -> None:
        """Make one cohort of those that ran together, and drop empty ones: fewer cohorts are cheaper."""
        largest = max(ran, key=lambda c: c.count, default=None)
        for cohort in ran:
            if cohort is not largest and largest is not None:
                for request in list(cohort.members):
                    self._move(request, cohort, largest)
        self.idle = [c for c in self.idle if c.count] or self.idle[:1]

    def _prompt_done(self, request: Request, end: int) -> bool:
        """The prompt is computed, so a token comes at `end`. True if it is the last one."""
        if request.generated:
            request.preemption += end - max(request.last_token, request.since)
            self.restart_gaps.append(end - request.last_token)
        else:
            request.first_token = end
            request.prefill = request.own
            request.host = request.first_host = request.phase_host
            beside = end - request.phase_start - request.own - request.phase_host
            request.interference = request.first_interference = beside
        request.generated += 1
        request.last_token = end
        remaining = self.lengths[request.index] - request.generated
        if remaining == 0:
            return True
        if self.hand_off and self.hand_off(request, end):
            self.running -= 1
            return False
        self._decode(request, remaining, end)
        return False

    def _decode(self, request: Request, remaining: int, since: int) -> None:
        if not self.idle:
            self.idle = [self._cohort()]
        self.idle[0].join(request, request.computed, remaining, request.last_token, since)

    def adopt(self, request: Request, now: int) -> None:
        """Let a request go on decoding whose KV cache has come into `request.blocks`, which are taken already."""
        self.running += 1
        request.order = request.index if self.kv.arrival_order else self._admissions
        self._admissions += 1
        self._decode(request, self.lengths[request.index] - request.generated, now)

    def surrender(self, request: Request) -> None:
        """Take a request that is not in flight off the running list; its blocks stay taken."""
        if request.cohort:
            request.cohort.leave(request)
        else:
            self.prefills.remove(request)
        self.running -= 1

    def preempt(self, request: Request) -> None:
        """Take a running request's blocks: to the host if the policy swaps and there is room, else for good."""
        swap = self.kv.swaps and request.cohort is not None
        self._stop(request, preempted=True)
        request.preemptions += 1
        self.preemptions += 1
        if swap and self.host.take_in(request):
            self.swapped.append(request)
            self.swapped.sort(key=_order)
            return
        request.computed = request.blocks = 0
        request.target = request.prompt_tokens + request.generated
        self.waiting.push_front(request)

    def _stop(self, request: Request, preempted: bool = False) -> None:
        """Take a request off the running list and free its blocks."""
        self.surrender(request)
        self.pool.release(request, preempted)

    def _swap_in(self, request: Request) -> None:
        self.swapped.remove(request)
        self.host.give_back(request, self.limits)
        self.pool.take(request.blocks)
        self.running += 1
        request.preemption += self._start - request.last_token
        self._decode(request, self.lengths[request.index] - request.generated, self._start)

    def drop(self, request: Request) -> None:
        """Forget a request that is not in flight, wherever it is."""
        if request in self.swapped:
            self.swapped.remove(request)
            self.host.let_go(request)
        elif request.cohort or request in self.prefills:
            self._stop(request)
        else:
            self.waiting.remove(request)
        self.host.forget(request)

    def crash(self, batch: Batch | None) -> list[Request]:
        """Lose everything, with what `batch` was computing; returns the requests that were here."""
        flying = [*self.flying, batch] if batch else self.flying
        cohorts = [c for b in flying for c in b.cohorts] + self.idle
        running = [r for c in cohorts for r in list(c.members)]
        for request in running:
            assert request.cohort is not None
            request.cohort.leave(request)
        running += [r for b in flying for r, _ in b.parts] + self.prefills
        lost = running + self.swapped + list(self.waiting)
        self.waiting.clear()
        self.idle, self.prefills, self.swapped, self.flying = [self._cohort()], [], [], []
        self._held_back, self.restart_gaps, self.running, self.claimed = [], [], 0, 0
        self.host.clear()
        self.epoch += 1
        self.pool.clear()
        return lost

    def stuck(self) -> Request | None:
        """The request that waits in front although nothing runs: it will never be let in."""
        if self.running or self.claimed or self.patient:
            return None
        return self.swapped[0] if self.swapped else next(iter(self.waiting), None)
