"""Pins: the KV cache of a program that waits for a tool stays where it is, for a time that a retention policy says.

A pin is a `Claim`, so its blocks are in nobody's way but the memory's. The program's next request finds them in the
prefix cache; once that is admitted, or when the time is over, the pin goes. Where the head of the queue does not fit,
pins make way: when the policy gives them up, and in any case when nothing runs, so that they never block for good.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import Any, NamedTuple, Protocol

from ...costmodels.base import CostModel, prompt_seconds, seconds, ticks
from ..cluster.claim import Claim
from ..cluster.cluster import Cluster
from ..core import Request, Step
from ..program import Program
from ..records import End


class Turn(NamedTuple):
    """A request that has just ended with a call of a tool, as a retention policy sees it.

    context : tokens in its KV cache. others : tokens in the KV caches of the engine's other requests.
    prefill : (tokens, cached tokens) -> predicted seconds to compute them. load : seconds to load a context of so many
    tokens from a tier, None where there is none.
    """

    program: Program
    tool: str
    context: int
    others: int
    prefill: Callable[[int, int], float]
    load: Callable[[int], float] | None

    def reload(self, tokens: int) -> float:
        """Seconds to have a context back once it has left the device: computed again, or loaded if that is faster."""
        again = self.prefill(tokens, 0)
        return again if self.load is None else min(again, self.load(tokens))


class RetentionPolicy(Protocol):
    """What becomes of a KV cache between two turns. Its state changes in the `observe_` methods only.

    forgets : what is not pinned is forgotten at once, else it stays in the prefix cache until somebody needs the room.
    gives_way : pins are given up for whoever is at the head of the queue and does not fit, else only where nothing
    could run otherwise.
    """

    forgets: bool
    gives_way: bool

    def ttl(self, turn: Turn) -> float:
        """Seconds for which to pin; 0 = not at all."""
        ...

    def observe_gap(self, tool: str, gap: float) -> None:
        """A program's next request has arrived `gap` seconds after its last one ended with a call of `tool`."""
        ...

    def observe_wait(self, wait: float) -> None:
        """A request of a program that had lost its pin, or never had one, was admitted after `wait` seconds."""
        ...

    def observe_end(self, turns: int) -> None:
        """A program of so many turns is over."""
        ...


class Pin:
    """Blocks of `program`, or of one `request` whose KV cache has been loaded.

    late : its time is over, and it stays for a request that already waits.
    """

    __slots__ = ("claim", "late", "program", "request")

    def __init__(self, program: Program | None, claim: Claim, request: Request | None = None) -> None:
        self.program = program
        self.request = request
        self.claim = claim
        self.late = False

    @property
    def key(self) -> int:
        """Its name among the pins of an engine."""
        return self.program.id if self.program else -1 - self.claim.keeper.index

    def rank(self, head: Request) -> tuple[bool, int, int]:
        """The greatest goes first: not the head's own, the latest program's."""
        mine = self.request is head or (self.program is not None and self.program is head.program)
        return not mine, self.program.arrival if self.program else self.claim.keeper.arrival, self.key


class Finder(Protocol):
    """Who finds KV cache elsewhere for those who are about to be admitted: tiers and peers, or stored chunks."""

    def intercept(self, pins: Pins, step: Step) -> bool:
        """A step would admit requests: True if that is to be thought over."""
        ...

    def loadable(self, engine: Any, request: Request) -> tuple[int, float]:
        """Tokens of a prompt that would be loaded for an engine now, and the predicted seconds of waiting for them."""
        ...

    def seconds_of(self, engine: Any) -> Callable[[int], float] | None:
        """Predicted time to load so many tokens of a context that has left the device, None where it cannot be."""
        ...


class Pins:
    """The pins on one engine, and what is loaded for it."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.rank = engine, engine.rank
        self.retention: Retention | None = None
        self.loader: Finder | None = None
        self._pins: dict[int, Pin] = {}

    def holds(self, program: Program) -> bool:
        """Whether the KV cache of a program is pinned here."""
        pin = self._pins.get(program.id)
        return pin is not None and pin.claim.epoch == self.rank.epoch

    def keep(self, request: Request, now: int) -> bool:
        """A request has ended. True if its blocks are taken care of."""
        program = request.program
        if self.retention is None or program is None or request.cancelled:
            return False
        return self.retention.ended(self, request, program, now)

    def pin(self, program: Program, request: Request) -> Pin:
        """Keep what a request has written."""
        self.release(program.id)
        self.rank.pool.commit(request)
        return self.hold(Pin(program, Claim.keep(self.engine, request)))

    def hold(self, pin: Pin) -> Pin:
        """One more."""
        self._pins[pin.key] = pin
        return pin

    def clear(self) -> None:
        """The engine has crashed: nothing is held any more."""
        self._pins.clear()

    def expire_soon(self, pin: Pin) -> None:
        """Its time is over; for those who speak from outside."""
        self.engine.at_boundary(partial(self._expire, pin))

    def _expire(self, pin: Pin, _: int) -> bool:
        """Let go unless a request of its program already waits here."""
        if self._pins.get(pin.key) is pin:
            if pin.program and any(r.program is pin.program for r in self.rank.waiting):
                pin.late = True
            else:
                self.release(pin.key)
        return True

    def left(self, request: Request) -> None:
        """A request has ended without being admitted, perhaps the one that a late pin stayed for."""
        pins = [self._pins.get(-1 - request.index), self._pins.get(request.program.id) if request.program else None]
        for pin in pins:
            if pin and (pin.late or pin.request):
                self.expire_soon(pin)

    def loadable(self, request: Request) -> tuple[int, float]:
        """Tokens of a prompt that would be loaded, and the predicted seconds for that; for who asks from outside."""
        return self.loader.loadable(self.engine, request) if self.loader else (0, 0.0)

    def admitted(self, request: Request) -> None:
        """A request has been admitted and holds what it found."""
        if request.loading:
            if request.phase_start == request.scheduled:
                request.queueing -= request.loading
            else:  # it had run before: that wait counts as preemption
                request.preemption -= request.loading
            request.transfer += request.loading
            request.loading = 0
        self.release(-1 - request.index)
        if self.retention and request.program is not None:
            had = self.holds(request.program)
            self.release(request.program.id)
            if not had and request.program.turns and not request.preemptions:
                self.retention.policy.observe_wait(seconds(request.queueing))

    def put_back(self, request: Request) -> None:
        """Somebody who was away for a load stands at the head of the queue again."""
        push = getattr(self.rank.waiting, "push_front", None)
        if push:
            push(request)
        else:
            self.rank.enqueue(request, at_head=True)

    def release(self, key: int) -> None:
        """Let go of a program's or a request's blocks; they stay in the prefix cache."""
        pin = self._pins.pop(key, None)
        if pin:
            pin.claim.release()

    def change(self, step: Step) -> bool:
        """A decision is about to be carried out: True if something was done that calls for another one."""
        if step.admit:
            return self.loader is not None and self.loader.intercept(self, step)
        return bool(self._pins) and len(self.rank.waiting) > 0 and self._make_way(step)

    def _make_way(self, step: Step) -> bool:
        """Nobody is admitted: give one pin up if the head of the queue could be, without pins."""
        rank = self.rank
        stuck = step.empty() and not rank.running
        gives_way = self.retention is not None and self.retention.policy.gives_way
        if not (stuck or gives_way):
            return False
        pinned = sum(pin.claim.keeper.blocks for pin in self._pins.values())
        if not (stuck or rank.policy.compose(_Roomier(rank, pinned)).admit):
            return False
        head = next(iter(rank.waiting))
        self.release(max(self._pins.values(), key=lambda pin: pin.rank(head)).key)
        return True


class _Roomier:
    """What a batch policy sees of an engine, with so many more free blocks."""

    def __init__(self, view: Any, more: int) -> None:
        self._view = view
        self.free_blocks = view.free_blocks + more

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)


class Retention:
    """The pins of all engines, and what the policy is told about gaps, waits and programs."""

    def __init__(
        self, cluster: Cluster, policy: RetentionPolicy, engines: Sequence[tuple[Any, CostModel]],
        next_tool: Sequence[int], tools: Sequence[str],
    ) -> None:  # fmt: skip
        self.cluster = cluster
        self.policy = policy
        self._next_tool, self._tools = next_tool, tools
        self._cost: dict[Any, CostModel] = {}
        self._calls: dict[int, tuple[int, int]] = {}  # program -> (tool, when its call began)
        for engine, cost in engines:
            engine.rank.pins.retention = self
            self._cost[engine] = cost
        cluster.on_submit.append(self._submitted)
        cluster.on_end.append(self._gone)

    def _submitted(self, request: Request) -> None:
        program = request.program
        if program is None:
            return
        call = self._calls.pop(program.id, None)
        if call:
            self.policy.observe_gap(self._tools[call[0]], seconds(self.cluster.env.now - call[1]))
        pins = pins_of(request)
        request.kept = pins is not None and pins.holds(program)

    def _gone(self, request: Request, end: End, now: int) -> None:
        pins = pins_of(request)
        if pins and end != End.FINISHED:
            pins.left(request)

    def ended(self, pins: Pins, request: Request, program: Program, now: int) -> bool:
        """Decide what becomes of the blocks of a request that has ended at `now`; False to let them go as usual."""
        tool = self._next_tool[request.row]
        if tool < 0:
            pins.release(program.id)
            self.policy.observe_end(program.turns + 1)
            ttl = 0.0
        else:
            self._calls[program.id] = (tool, now)
            ttl = self.policy.ttl(self._turn(pins, request, program, self._tools[tool]))
        if ttl > 0:
            pin = pins.pin(program, request)
            if ttl < inf:
                self.cluster.post(now + max(1, ticks(ttl)), pins.expire_soon, pin)
            return True
        if self.policy.forgets:
            pins.rank.pool.forget(request)
            return True
        return False

    def _turn(self, pins: Pins, request: Request, program: Program, tool: str) -> Turn:
        rank, cost = pins.rank, self._cost[pins.engine]
        used = max(0, rank.total_blocks - rank.pool.free - rank.claimed - request.blocks)
        return Turn(
            program, tool, request.computed, used * rank.limits.block_size, partial(prompt_seconds, cost),
            pins.loader.seconds_of(pins.engine) if pins.loader else None,
        )  # fmt: skip


def pins_of(request: Request) -> Pins | None:
    """Of the engine that has a request; who has none is nobody's, or with a service."""
    rank = getattr(request.engine, "rank", None)
    return rank.pins if rank else None
