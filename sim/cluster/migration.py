"""Live migration of running requests (Llumnix, OSDI'24): the KV cache is copied in stages while decoding goes on.

A stage copies the blocks that have been filled since the last one; the target makes room before each and may refuse.
When few blocks are left, or after two stages, the request stops, the rest is copied, and it goes on at the target. So
it stands still for one short copy, whatever its length.

Source: AlibabaPAI/llumnix, branch osdi24ae (92f6f9d5).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from typing import Any

from simpy.events import Event

from ...costmodels.base import ticks
from ..core import Rebalancer, ReplicaView, Request
from ..events import LOOKS, Moment
from .claim import Claim
from .cluster import Cluster
from .links import Flow
from .replica import Replica
from .sites import Sites


class Migration:
    """One request on its way from a source to a target replica.

    copied : tokens of its KV cache at the target. stage : counts from 1. preemptions : of the request when it began.
    """

    __slots__ = ("copied", "flow", "held", "over", "preemptions", "request", "room", "source", "stage", "stopped", "to",
                 "where")  # fmt: skip

    def __init__(self, source: Any, to: Replica) -> None:
        self.source = source  # engines
        self.where: Any = None
        self.to = to
        self.request: Any = None
        self.room: Claim | None = None  # at the target
        self.held: Claim | None = None  # at the source, once the request has stopped there
        self.flow: Flow | None = None
        self.copied = self.stage = self.preemptions = self.stopped = 0
        self.over = False


class Migrator:
    """Carries migrations out, one at a time a replica. It is the `engine` of requests that stand still.

    request_bytes : by replica, bytes of the KV cache of so many tokens.
    """

    def __init__(
        self, cluster: Cluster, sites: Sites, request_bytes: Mapping[Replica, Callable[[int], float]],
        policy: Rebalancer,
    ) -> None:  # fmt: skip
        self.cluster, self.sites, self.network = cluster, sites, sites.network
        self.policy = policy
        self._request_bytes = request_bytes
        self.busy: dict[Any, Migration] = {}  # replicas that give or take
        self.bytes_due = self.done = self.aborted = 0
        self.downtimes = array("q")  # ticks that requests stood still
        self.lengths = array("q")  # their contexts

    def start(self, source: Replica, to: Replica) -> None:
        """Move some request from one replica to another, if both are free to do so."""
        if source in self.busy or to in self.busy or source is to:
            return
        engine = max(source.domains, key=lambda d: d.rank.running)
        move = Migration(engine, to)
        self.busy[source] = self.busy[to] = move
        engine.at_boundary(partial(self._choose, move))

    # Each step below is an errand at a boundary of one engine; the next one hears of it a tick later.

    def _choose(self, move: Migration, now: int) -> bool:
        request = self.policy.candidate(move.source.rank.decoding()) if not move.over else None
        if request is None:
            self._soon(now, self._end, move)
            return True
        move.request, move.preemptions = request, request.preemptions
        full = self._full_tokens(move)
        self._soon(now, self._ask, move, full, full == 0)
        return True

    def _full_tokens(self, move: Migration) -> int:
        size = move.source.rank.limits.block_size
        return int(move.request.context() // size * size)

    def _ask(self, move: Migration, tokens: int, last: bool) -> None:
        """Have the target make room for `tokens` tokens in all."""
        if move.over or move.to.state != "up":
            self._abort(move)
            return
        if move.where is None:
            move.where = move.to.pick()
        move.where.at_boundary(partial(self._make_room, move, tokens, last))

    def _make_room(self, move: Migration, tokens: int, last: bool, now: int) -> bool:
        if move.over:
            return True
        if move.room is None:
            move.room = Claim.reserve(move.where, move.request, tokens)
            granted = move.room is not None
            move.copied = move.room.found if move.room else 0
        else:
            granted = move.room.extend(tokens)
        if not granted:
            self._soon(now, self._abort, move)
        elif last:
            self._soon(now, move.source.at_boundary, partial(self._stop, move), move.request)
        else:
            self._soon(now, self._copy, move, tokens)
        return True

    def _copy(self, move: Migration, tokens: int) -> None:
        if not move.over:
            move.stage += 1
            self._send(move, tokens, partial(self._copied, move))

    def _send(self, move: Migration, tokens: int, arrived: Callable[[], None]) -> None:
        path, latency = self.sites.path(move.source, move.where)
        bytes_of = self._request_bytes[move.to]
        size = max(0, round(bytes_of(tokens)) - round(bytes_of(move.copied)))
        move.copied = tokens
        self.bytes_due += size
        move.flow = self.network.send(path, size, latency, arrived)

    def _copied(self, move: Migration) -> None:
        move.flow = None
        move.source.at_boundary(partial(self._next_stage, move), move.request)

    def _next_stage(self, move: Migration, now: int) -> bool:
        if not self._alive(move):
            self._soon(now, self._abort, move)
            return True
        limits = move.source.rank.limits
        full = self._full_tokens(move)
        left = limits.blocks(full) - limits.blocks(move.copied)
        if left <= self.policy.last_stage_blocks or move.stage >= 2:
            # Room for a block more: the request decodes on while the target is asked.
            tokens = move.request.context() + limits.block_size
            self._soon(now, self._ask, move, tokens, True)
        else:
            self._soon(now, self._ask, move, full, False)
        return True

    def _alive(self, move: Migration) -> bool:
        """Whether the request still decodes at the source as it did when the migration began."""
        r = move.request
        return not (move.over or r.over or r.cancelled or r.engine is not move.source) and (
            r.preemptions == move.preemptions
        )

    def _stop(self, move: Migration, now: int) -> bool:
        """The last stage: take the request out of the source's batch and send what is left."""
        request, room = move.request, move.room
        if not self._alive(move) or room is None:
            self._soon(now, self._abort, move)
            return True
        limits = move.source.rank.limits
        if limits.blocks(request.context()) > room.keeper.blocks:  # it outgrew the room while that was made
            if move.stage >= self.policy.max_stages:
                self._soon(now, self._abort, move)
            else:
                move.stage += 1
                tokens = request.context() + limits.block_size
                self._soon(now, self._ask, move, tokens, True)
            return True
        move.source.rank.surrender(request)
        move.held = Claim.keep(move.source, request)
        move.stopped = now
        request.engine, request.passage = self, move
        self._soon(now, self._leave, move)
        return True

    def _leave(self, move: Migration) -> None:
        request = move.request
        if move.over:
            return
        if request.cancelled:
            self._give_up(move)
            return
        self.cluster.replicas[request.replica].release(request)
        move.to.count(request)
        self._send(move, request.computed, partial(self._arrived, move))

    def _arrived(self, move: Migration) -> None:
        move.flow = None
        if move.held:
            move.held.release_soon()
            move.held = None
        move.where.at_boundary(partial(self._join, move))

    def _join(self, move: Migration, now: int) -> bool:
        if move.over:
            return True
        request, engine, room = move.request, move.where, move.room
        if engine.rank.running >= engine.rank.limits.max_num_seqs or room is None:
            return False
        room.pass_to(request)
        request.transfer += now - max(request.last_token, request.since)
        request.engine, request.passage = engine, None
        engine.rank.adopt(request, now)
        self.downtimes.append(now - move.stopped)
        self.lengths.append(request.computed)
        self.done += 1
        self._soon(now, self._end, move)
        return True

    # -- other ends ----------------------------------------------------------------------------------------------

    def cancel(self, request: Request) -> None:
        """Its client has gone while it stood still."""
        move: Migration = request.passage
        if move.held is None or move.flow:  # else `_leave` is about to notice
            self._give_up(move)

    def _give_up(self, move: Migration) -> None:
        request, now = move.request, self.cluster.env.now
        request.passage = None
        request.transfer += now - max(request.last_token, request.since)
        self._abort(move)
        self.cluster.gone(request, now)

    def _abort(self, move: Migration) -> None:
        """Give the room back; the request, if it still runs, never noticed."""
        if move.over:
            return
        self.aborted += 1
        if move.flow:
            self.bytes_due -= move.flow.size - self.network.abort(move.flow)
        for claim in (move.room, move.held):
            if claim:
                claim.release_soon()
        self._end(move)

    def _end(self, move: Migration) -> None:
        move.over = True
        for replica in [r for r, other in self.busy.items() if other is move]:
            del self.busy[replica]

    def crashed(self, engines: Sequence[Any]) -> list[Request]:
        """Engines have lost their memory. Returns the requests that stood still and whose KV cache went with it."""
        lost = []
        for move in list(dict.fromkeys(self.busy.values())):
            if move.source not in engines and move.where not in engines:
                continue
            if move.request is not None and move.request.passage is move:  # it starts again, whichever end has crashed
                move.request.passage = None
                lost.append(move.request)
            self._abort(move)
        return lost

    def _soon(self, now: int, callback: Callable[..., object], *arguments: object) -> None:
        self.cluster.post(now + 1, callback, *arguments)


class Rebalancing:
    """Asks the plan's rebalancer every period, as long as there are requests; not while it says that all is calm.

    groups : replicas among which requests can move, with what the policy sees of them.
    """

    def __init__(
        self, cluster: Cluster, policy: Rebalancer, migrator: Migrator,
        groups: Sequence[tuple[Sequence[Replica], Sequence[ReplicaView]]],
    ) -> None:  # fmt: skip
        self.cluster, self.policy, self.migrator, self._groups = cluster, policy, migrator, groups
        self._period = ticks(policy.period)
        self._here: list[tuple[Sequence[Replica], Sequence[ReplicaView]]] = []
        self._armed = False
        self.looks = 0
        cluster.on_submit.append(self._wake)
        cluster.on_state.append(self.refresh)

    def _wake(self, _: Request) -> None:
        if not self._armed:
            self._arm(1)

    def _arm(self, periods: int) -> None:
        self._armed = True
        env = self.cluster.env
        Moment(env, env.now + periods * self._period, LOOKS, self._look)

    def _look(self, _: Event) -> None:
        self._armed = False
        if not self.cluster.live:
            return
        self.looks += 1
        now = self.cluster.env.now
        self.cluster.turn.tick, self.cluster.turn.place = now, LOOKS
        quiet: float = inf
        for replicas, seen in self._here:
            pairs, until = self.policy.pairs(seen, now)
            for source, target in pairs:
                self.migrator.start(replicas[source], replicas[target])
            quiet = min(quiet, until)
        self._arm(max(1, int(-(-(min(self.cluster.env.peek(), quiet) - now) // self._period))))

    def refresh(self) -> None:
        """From now on it looks at the replicas that are there."""
        self._here = []
        for replicas, seen in self._groups:
            here = [i for i, replica in enumerate(replicas) if replica.state in ("up", "draining")]
            self._here.append(([replicas[i] for i in here], [seen[i] for i in here]))
