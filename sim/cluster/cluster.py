"""The cluster: replicas behind a router, and the books on every request from submission to its end."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from simpy.events import Event

from ...traces.table import RequestTable
from ..core import ReplicaView, Request, Router
from ..events import ARRIVALS, Clock, Moment, Turn
from ..records import End, Recorder
from .replica import Replica, views

if TYPE_CHECKING:
    from ..core import AdmissionPolicy


class Taker(Protocol):
    """Who may take a request in place of a replica: a semantic cache before it, or a limbo where none is up."""

    def takes(self, request: Request) -> bool:
        """Whether it is taken care of."""
        ...


class Limbo(Taker, Protocol):
    """Where requests wait for replicas (`limbo.Limbo`)."""

    def release(self) -> None:
        """A replica has come up or gone: try everybody again."""
        ...


class Pairing(Protocol):
    """Who routes requests to two replicas, one after the other (`handoff.Handoff`)."""

    def route(self, request: Request, replicas: Sequence[Replica], seen: Sequence[ReplicaView]) -> Replica | None:
        """The replica that gets the request first, None to reject it."""
        ...

    def forget(self, passage: Any) -> None:
        """The second replica need not expect a request any more."""
        ...

    def refresh(self) -> None:
        """Other replicas are up than before."""
        ...


class TraceColumns:
    """What the cluster reads of a trace, row by row, in the form that is fastest for that."""

    def __init__(self, table: RequestTable) -> None:
        self.prompts = _cells(table.prompt_tokens)
        self.outputs = _cells(table.output_tokens)
        self.priority = _cells(table.priority) if table.priority is not None else None
        self.tenant = _cells(table.tenant.codes) if table.tenant is not None else None
        self.model = _cells(table.model.codes) if table.model is not None else None
        self.adapter: list[int] | None = None
        self.session = _cells(table.session.codes) if table.session is not None else None


def _cells(column: NDArray) -> memoryview:
    """A column whose cells are Python's numbers when they are asked for: no list of them in memory."""
    return np.ascontiguousarray(column).data


class Cluster:
    """Where clients submit requests.

    A request goes to a replica that serves its model label and whose `max_model_len` leaves room after its prompt;
    where there is none it is rejected.
    """

    def __init__(self, env: Clock, trace: TraceColumns, recorder: Recorder) -> None:
        self.env = env
        self.turn = Turn()
        self.recorder = recorder
        self.lengths: array[int] = array("q")  # true output length by request index: policies have no way here
        self.live: dict[Request, None] = {}
        self.submitted = 0
        self.offered = len(trace.prompts)
        self.truncated = 0  # answers that `max_model_len` cuts short
        self.on_submit: list[Callable[[Request], None]] = []
        self.on_end: list[Callable[[Request, End, int], None]] = []
        self.on_state: list[Callable[[], None]] = []
        self.estimate: Callable[[int], float] | None = None  # a predictor of output length
        self.enrol: Callable[[Request], None] | None = None  # in its program, where the trace has such
        self.replicas: list[Replica] = []
        self.handoff: Pairing | None = None
        self.limbo: Limbo | None = None
        self.admission: AdmissionPolicy | None = None
        self.front: Taker | None = None
        self._trace = trace
        self._prompts, self._outputs = trace.prompts, trace.outputs
        self._priority, self._tenant, self._model = trace.priority, trace.tenant, trace.model
        self._session, self._adapter = trace.session, trace.adapter

    def connect(
        self, replicas: list[Replica], router: Router, view_age: int, serving: Mapping[int, Sequence[Replica]]
    ) -> None:
        """Put the replicas behind the router. `serving` : by model code, the replicas of pools that name models."""
        self.replicas = replicas
        self.router = router
        self._view_age = view_age
        first = [r for r in replicas if r.role != "decode"]  # of a request's replicas
        self._everyone = self._all = (first, views(first, self.env, view_age))
        self._by_model = {code: (list(some), views(some, self.env, view_age)) for code, some in serving.items()}
        self._all_by_model = dict(self._by_model)
        self._max_model_len = {r.id: r.domains[0].rank.limits.max_model_len for r in replicas}
        self._shortest = min(self._max_model_len.values())

    def seen(self, replicas: Sequence[Replica]) -> list[ReplicaView]:
        """What policies see of some replicas: the same views that the router has, where it has any."""
        known = {replica.id: view for replica, view in zip(*self._all, strict=True)}
        return [known.get(r.id) or views([r], self.env, self._view_age)[0] for r in replicas]

    def set_state(self, replica: Replica, state: str) -> None:
        """A replica comes up or goes."""
        replica.state = state
        replica.touch()
        replica.history.append((self.env.now, state))
        self.refresh()

    def refresh(self) -> None:
        """From now on the routers see the replicas that are up."""
        self._everyone = _up(self._all)
        self._by_model = {code: _up(some) for code, some in self._all_by_model.items()}
        for listener in self.on_state:
            listener()
        if self.handoff:
            self.handoff.refresh()
        if self.limbo:
            self.limbo.release()

    def submit(self, row: int, attempt: int = 0) -> Request:
        """A client sends row `row` of the trace, now."""
        prompt = self._prompts[row]
        request = Request(self.submitted, row, self.env.now, prompt)
        self.submitted += 1
        if attempt:
            request.attempt = attempt
        if self._priority is not None:
            request.priority = self._priority[row]
        if self._tenant is not None:
            request.tenant = self._tenant[row]
        if self._session is not None:
            request.session = self._session[row]
        if self.enrol:
            self.enrol(request)
        if self._adapter is not None:
            request.adapter = self._adapter[row]
        if self.front and self.front.takes(request):
            self.live[request] = None
            if self.estimate:
                request.estimate = self.estimate(self._outputs[row])
            self._set_length(request, max(self._max_model_len.values()))
            return self._announce(request)
        plain = not self._by_model and prompt < self._shortest
        replicas, seen = self._everyone if plain else self._candidates(request, prompt)
        self.live[request] = None
        if self.estimate and replicas:
            request.estimate = self.estimate(self._outputs[row])
        replica = self._route(request, replicas, seen) if replicas else None
        if replica is None and not (self.limbo and not replicas and self.limbo.takes(request)):
            self.lengths.append(self._outputs[row])
            self._end(request, End.REJECTED, self.env.now)
            return request
        self._set_length(request, self._max_model_len[replica.id] if replica else max(self._max_model_len.values()))
        if replica:
            replica.arrive(request)
        return self._announce(request)

    def _set_length(self, request: Request, max_model_len: int) -> None:
        """Its true output, cut where a replica has no room for more."""
        output, room = self._outputs[request.row], max_model_len - request.prompt_tokens
        self.truncated += output > room
        self.lengths.append(min(output, max(1, room)))

    def _announce(self, request: Request) -> Request:
        for listener in self.on_submit:
            listener(request)
        return request

    def dispatch(self, request: Request) -> None:
        """Route a request that has no replica any more, or never had one. Its replica-to-be computes what it lacks."""
        self._forget_passage(request)
        request.computed = request.blocks = 0
        request.holding = None
        request.target = request.prompt_tokens + request.generated
        whole = request.prompt_tokens + self.lengths[request.index]
        replicas, seen = self._candidates(request, whole - 1)
        replica = self._route(request, replicas, seen) if replicas else None
        if replica:
            replica.arrive(request)
        elif not (self.limbo and not replicas and self.limbo.takes(request)):
            self.gone(request, self.env.now)

    def _candidates(self, request: Request, tokens: int) -> tuple[Sequence[Replica], Sequence[ReplicaView]]:
        """The replicas that serve its model and have room for more than so many tokens of a request."""
        replicas, seen = self._everyone
        if self._by_model:
            replicas, seen = self._by_model.get(self._model[request.row] if self._model else -1, self._everyone)
        if tokens >= self._shortest:
            fits = [i for i, r in enumerate(replicas) if tokens < self._max_model_len[r.id]]
            replicas, seen = [replicas[i] for i in fits], [seen[i] for i in fits]
        return replicas, seen

    def _route(self, request: Request, replicas: Sequence[Replica], seen: Sequence[ReplicaView]) -> Replica | None:
        if self.admission and request.scheduled < 0 and not self.admission.admit(request, seen, self.env.now):
            return None
        if self.handoff:
            return self.handoff.route(request, replicas, seen)
        replica = replicas[self.router.route(request, seen)] if len(replicas) > 1 else replicas[0]
        if replica.prepend_tokens:
            request.prompt_tokens = self._prompts[request.row] + replica.prepend_tokens
            request.target = request.prompt_tokens + request.generated
        return replica

    def post(self, at: int, callback: Callable[..., object], *arguments: object) -> None:
        """Call back with the arguments at a tick, as something that comes from outside.

        What an engine tells others takes a tick at least: so events of one tick never feed each other, and ties fall
        the same way however far anyone leaps.
        """
        Moment(self.env, at, ARRIVALS, partial(self._call, callback, arguments))

    def _call(self, callback: Callable[..., object], arguments: Sequence[object], _: Event) -> None:
        callback(*arguments)

    def finished(self, request: Request, now: int) -> None:
        """Its last token has come; its client may have gone during that very iteration."""
        self._end(request, End.CANCELLED if request.cancelled else End.FINISHED, now)

    def gone(self, request: Request, now: int, end: End | None = None) -> None:
        """Its engine has dropped it: cancelled, or it can never fit."""
        waited = now - request.arrival
        spent = request.queueing + request.prefill + request.decode + request.interference
        rest = waited - spent - request.preemption - request.transfer - request.host
        if request.scheduled < 0:
            request.queueing += rest
        elif request.generated:
            request.preemption += rest
        else:
            request.prefill += rest
        if request.cancelled:
            self._end(request, End.CANCELLED, now)
        else:
            self._end(request, end or (End.FAILED if request.generated else End.REJECTED), now)

    def cancel(self, request: Request) -> None:
        """Its client gives up."""
        if not request.over and not request.cancelled:
            request.cancelled = True
            request.engine.cancel(request)

    def _end(self, request: Request, end: End, now: int) -> None:
        request.over = True
        if request.passage is not None:
            self._forget_passage(request)
        del self.live[request]
        if request.replica >= 0:
            self.replicas[request.replica].release(request)
        self.recorder.request(request, end, now, self.lengths[request.index])
        for listener in self.on_end:
            listener(request, end, now)

    def _forget_passage(self, request: Request) -> None:
        """It does not go on to its decode replica."""
        if request.passage is not None and self.handoff:
            self.handoff.forget(request.passage)
        request.passage = None

    def fail(self, request: Request) -> None:
        """Nobody goes on with a request that its replica has lost."""
        self.gone(request, self.env.now, End.FAILED)

    @property
    def through(self) -> bool:
        """Whether nothing is under way and the trace has been offered."""
        return not self.live and self.submitted >= self.offered

    def close(self) -> None:
        """Write a row for everyone who has not ended when the run stops."""
        now = max(self.env.now, self.turn.tick)
        for replica in self.replicas:
            for domain in replica.domains:
                domain.stop(now)
        for request in list(self.live):
            request.generated = request.tokens()
            self.recorder.request(request, End.UNFINISHED, now, self.lengths[request.index])
        self.live.clear()


def _up(some: tuple[Sequence[Replica], Sequence[ReplicaView]]) -> tuple[list[Replica], list[ReplicaView]]:
    up = [i for i, replica in enumerate(some[0]) if replica.state == "up"]
    return [some[0][i] for i in up], [some[1][i] for i in up]
