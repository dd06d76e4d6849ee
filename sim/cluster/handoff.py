"""Prefill here, decode there: how a request and its KV cache get from one replica to the other.

A prefill replica gives the first token and keeps the KV blocks. The decode replica admits first come, first served,
when it has room and few promises open (DistServe's bridge queue, LLMServe/DistServe 82831f16); then the KV cache moves
over the links, and the request joins the decodes. A decode replica without room thus fills the prefill replica.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import Any

from ...configs.topology import Disaggregation
from ...costmodels.base import TICKS_PER_SECOND, ticks
from ..core import ReplicaView, Request, Router
from .claim import Claim
from .cluster import Cluster
from .links import Flow, Link
from .replica import Replica
from .sites import Sites

_Choice = tuple[Sequence[Replica], Sequence[ReplicaView]]


class Passage:
    """A request's way from `source` to `decode`: before, during and after the transfer."""

    __slots__ = ("announced", "decode", "engine", "flow", "held", "over", "request", "reserved", "source", "waited")

    def __init__(self, request: Request, decode: Replica | None) -> None:
        self.request = request
        self.decode = decode
        self.announced = decode is not None  # counted there among those to come
        self.source: Any = None  # engines
        self.engine: Any = None
        self.held: Claim | None = None  # on the source
        self.reserved: Claim | None = None  # on the target
        self.flow: Flow | None = None
        self.waited = False  # the target had no room when it was first asked
        self.over = False


class Intake:
    """The door of an engine that decodes: who waits for room there, in order. promised : blocks not yet in use."""

    def __init__(self, engine: Any, backlog: float, admitted: Callable[[Passage, int], None]) -> None:
        self.engine = engine
        self.promised = 0
        self._limit = backlog * engine.rank.total_blocks
        self._admitted = admitted
        self._queue: deque[Passage] = deque()
        self._asking = False

    def offer(self, passage: Passage) -> None:
        """Somebody stands at the door."""
        self._queue.append(passage)
        if not self._asking:
            self._asking = True
            self.engine.at_boundary(self._let_in)

    def _let_in(self, now: int) -> bool:
        while self._queue:
            passage = self._queue[0]
            if not passage.over:
                if self.promised and self.promised >= self._limit:
                    passage.waited = True
                    return False
                request = passage.request
                passage.reserved = Claim.reserve(self.engine, request, request.computed)
                if passage.reserved is None:
                    passage.waited = True
                    return False
                self.promised += passage.reserved.keeper.blocks
                self._admitted(passage, now)
            self._queue.popleft()
        self._asking = False
        return True

    def clear(self) -> None:
        """The engine has crashed: nobody is promised anything any more."""
        self._queue.clear()
        self.promised = 0
        self._asking = False

    def look_again(self) -> None:
        """The head of the queue may have gone."""
        if self._asking:
            self.engine.at_boundary(self._stir)

    def _stir(self, _: int) -> bool:
        return True  # something is done: everybody is asked again


class Handoff:
    """Moves requests from prefill to decode replicas. It is the `engine` of those on their way.

    router, decode_router : pick the prefill and the decode replica, unless `router` is a `core.PairRouter`.
    request_bytes : bytes of the KV cache of so many tokens. layers : of the model.
    """

    def __init__(
        self, cluster: Cluster, sites: Sites, spec: Disaggregation, router: Router, decode_router: Router,
        decodes: Sequence[Replica], seen: Sequence[ReplicaView], request_bytes: Callable[[int], float], layers: int,
    ) -> None:  # fmt: skip
        self.cluster = cluster
        self.sites = sites
        self.network = sites.network
        self.spec = spec
        self.decodes, self.seen = decodes, seen
        self._router, self._decode_router = router, decode_router
        self._pair = getattr(router, "place", None)
        self._request_bytes = request_bytes
        self._layers = layers
        self._intakes = {e: Intake(e, spec.backlog, self._admitted) for r in decodes for e in r.domains}
        self._all = (decodes, seen)
        self._near: dict[str, _Choice] = {}
        self._active: dict[Passage, None] = {}
        self._homeless: list[Passage] = []  # while no decode replica is up
        self.prefilled: Callable[[Any, Request, int], None] | None = None  # told who leaves which engine, and when
        self.transfers = self.aborted = self.expired = 0
        self.bytes_due = 0  # what the links must have carried

    # -- routing -------------------------------------------------------------------------------------------------

    def route(self, request: Request, replicas: Sequence[Replica], seen: Sequence[ReplicaView]) -> Replica | None:
        """The replica that gets the request first, None to reject it; a passage is opened if another one decodes it."""
        if self._pair:
            chosen = self._pair(request, seen, self.seen)
            if chosen is None:
                return None
            first, decode = replicas[chosen[0]], self.decodes[chosen[1]]
        else:
            decode = None
            spec = self.spec
            if self.decodes and (spec.choose == "arrival" or spec.local_prefill_tokens):
                decode = self._decode_replica(request, (self.decodes, self.seen))
                if request.prompt_tokens - decode.cached_tokens(request) <= spec.local_prefill_tokens:
                    return decode
            first = replicas[self._router.route(request, seen) if len(replicas) > 1 else 0]
            if spec.keep_mixed and first.role == "mixed":
                return first
            if spec.choose == "hand_off":
                decode = None
        if first is not decode:
            request.passage = Passage(request, decode)
            if decode:
                decode.coming += request.prompt_tokens
        return first

    def _decode_replica(self, request: Request, choice: _Choice) -> Replica:
        decodes, seen = choice
        return decodes[self._decode_router.route(request, seen) if len(decodes) > 1 else 0]

    def _within_reach(self, source: Any) -> _Choice:
        """The replicas that may decode what an engine has computed, up or not."""
        if not self.spec.near:
            return self._all
        fabric = self.sites.fabric(source)
        if fabric not in self._near:
            here = _those(self._all, lambda replica: self.sites.fabric(replica.domains[0]) == fabric)
            self._near[fabric] = here if here[0] else self._all
        return self._near[fabric]

    # -- on the way ----------------------------------------------------------------------------------------------

    def hand_off(self, request: Request, now: int) -> bool:
        """An engine has computed a prompt. True if the request goes on elsewhere."""
        passage: Passage | None = request.passage
        if passage is None:
            return False
        passage.source = request.engine
        if self.prefilled:
            self.prefilled(passage.source, request, now)
        self._active[passage] = None
        passage.held = Claim.keep(passage.source, request)
        request.engine = self
        self.cluster.post(now + 1, self._offer, passage)
        return True

    def forget(self, passage: Passage) -> None:
        """Its decode replica need not expect it any more: it comes now, or never."""
        if passage.announced and passage.decode:
            passage.decode.coming -= passage.request.prompt_tokens
        passage.announced = False

    def _offer(self, passage: Passage) -> None:
        request = passage.request
        if passage.over:
            return
        self.forget(passage)
        if request.cancelled:
            self._give_up(passage)
            return
        decode = passage.decode
        if decode is None or decode.state != "up":
            choice = self._within_reach(passage.source)
            up = _those(choice, _is_up) if self.spec.near else (self.decodes, self.seen)
            if not up[0]:
                if all(replica.state == "down" for replica in choice[0]):  # for good
                    self._give_up(passage)
                else:
                    self._homeless.append(passage)
                return
            decode = passage.decode = self._decode_replica(request, up)
        self.cluster.replicas[request.replica].release(request)
        passage.engine = decode.expect(request)
        self._intakes[passage.engine].offer(passage)
        if self.spec.lease < inf:
            self.cluster.post(self.cluster.env.now + ticks(self.spec.lease), self._expire, passage)

    def _admitted(self, passage: Passage, now: int) -> None:
        """The target has made room at `now`; it takes a message to tell the source, and as a pull has to ask for it."""
        _, latency = self.sites.path(passage.source, passage.engine)
        self.cluster.post(now + 1 + (latency if self.spec.direction == "pull" else 0), self._send, passage)

    def _send(self, passage: Passage) -> None:
        if passage.over or passage.reserved is None or passage.reserved.epoch != passage.engine.rank.epoch:
            return
        path, latency = self.sites.path(passage.source, passage.engine)
        request = passage.request
        size = round(self._request_bytes(request.computed) - self._request_bytes(passage.reserved.found))
        behind = 0 if passage.waited else self._sent_while_computing(request, size, path)
        self.bytes_due += size
        passage.flow = self.network.send(path, size - behind, latency, partial(self._arrived, passage))

    def _sent_while_computing(self, request: Request, size: int, path: Sequence[Link]) -> int:
        """Bytes that left during the prefill, booked. The last part, a layer or a chunk, can only follow it."""
        mode = self.spec.mode
        if mode == "serial" or not path:
            return 0
        if mode == "layer_wise":
            last = 1 / self._layers
        else:
            limits = request.passage.source.rank.limits
            chunk = min(limits.max_num_batched_tokens, limits.long_prefill_token_threshold or request.computed)
            last = ((request.computed - 1) % chunk + 1) / request.computed
        time = (request.last_token - request.phase_start) / TICKS_PER_SECOND
        behind = int(min(size, self.network.unnoticed(path, time, request.last_token)) * (1 - last))
        self.network.hide(path, behind, request.phase_start)
        return behind

    def _arrived(self, passage: Passage) -> None:
        passage.flow = None
        self.transfers += 1
        if passage.held:
            passage.held.release_soon()
            passage.held = None
        passage.engine.at_boundary(partial(self._join, passage))

    def _join(self, passage: Passage, now: int) -> bool:
        """Schedule the request at its target, if there is a slot."""
        if passage.over:
            return True
        request, engine, reserved = passage.request, passage.engine, passage.reserved
        if engine.rank.running >= engine.rank.limits.max_num_seqs or reserved is None:
            return False
        self._intakes[engine].promised -= reserved.keeper.blocks
        reserved.pass_to(request)
        request.transfer += now - max(request.last_token, request.since)
        request.engine, request.passage = engine, None
        del self._active[passage]
        engine.rank.adopt(request, now)
        return True

    # -- other ends ----------------------------------------------------------------------------------------------

    def cancel(self, request: Request) -> None:
        """Its client has gone while it was on its way."""
        passage: Passage = request.passage
        if passage.engine is not None or passage in self._homeless:  # else `_offer` is about to notice
            self._give_up(passage)

    def _give_up(self, passage: Passage) -> None:
        request, now = passage.request, self.cluster.env.now
        self._let_go(passage)
        request.transfer += now - max(request.last_token, request.since)
        self.cluster.gone(request, now)

    def _let_go(self, passage: Passage) -> None:
        """Stop the transfer and give all blocks back."""
        passage.over = True
        self.forget(passage)
        passage.request.passage = None
        del self._active[passage]
        self._stop_flow(passage)
        if passage.held:
            passage.held.release_soon()
        if passage.reserved:
            self._intakes[passage.engine].promised -= passage.reserved.keeper.blocks
            passage.reserved.release_soon()
        if passage.engine is not None:
            self._intakes[passage.engine].look_again()

    def _expire(self, passage: Passage) -> None:
        """The source does not keep the KV cache any longer for a reader who has not come."""
        if passage.over or passage.reserved or passage.request.over or passage.request.passage is not passage:
            return
        self.expired += 1
        if self.spec.expired == "fail":
            self._give_up(passage)
            return
        request = passage.request
        self._let_go(passage)
        request.computed = request.blocks = 0
        request.holding = None
        request.target = request.prompt_tokens + request.generated
        request.engine = passage.engine
        passage.engine.arrive(request)
        if passage.decode:
            passage.decode.touch()

    def _stop_flow(self, passage: Passage) -> None:
        if passage.flow:
            self.bytes_due -= passage.flow.size - self.network.abort(passage.flow)
            passage.flow = None
            self.aborted += 1

    # -- replicas that come and go -------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Other decode replicas are up than before."""
        self.decodes, self.seen = _those(self._all, _is_up)
        waiting, self._homeless = self._homeless, []
        for passage in waiting:
            self._offer(passage)

    def crashed(self, engines: Sequence[Any]) -> list[Request]:
        """Engines have lost their memory. Returns the requests whose KV cache went with it; others find a new home."""
        lost = []
        for passage in list(self._active):
            at_source = passage.held is not None  # the KV cache
            if (passage.source if at_source else passage.engine) in engines:
                self._let_go(passage)
                lost.append(passage.request)
            elif passage.engine in engines:
                self._stop_flow(passage)
                passage.engine = passage.decode = passage.reserved = None
                passage.waited = True
                self.cluster.post(self.cluster.env.now + 1, self._offer, passage)
        for engine in engines:
            if engine in self._intakes:
                self._intakes[engine].clear()
        return lost


def _is_up(replica: Replica) -> bool:
    return replica.state == "up"


def _those(choice: _Choice, which: Callable[[Replica], bool]) -> _Choice:
    """Some of the replicas, with what routers see of them."""
    some = [i for i, replica in enumerate(choice[0]) if which(replica)]
    return [choice[0][i] for i in some], [choice[1][i] for i in some]
