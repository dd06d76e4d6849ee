"""Clients: when requests are born, when their senders lose patience, and whether they try again."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from simpy.events import Event

from ..costmodels.base import TICKS_PER_SECOND, ticks
from ..traces.columns import Floats
from ..traces.table import RequestTable
from .cluster.cluster import Cluster
from .core import Request
from .events import ARRIVALS, Clock, Moment
from .records import End


def as_ticks(seconds: Floats) -> NDArray[np.int64]:
    """Times as ticks: whole seconds and their fraction apart, so that a year keeps its nanoseconds."""
    whole = np.floor(seconds)
    part = np.rint((seconds - whole) * TICKS_PER_SECOND)
    return whole.astype(np.int64) * TICKS_PER_SECOND + part.astype(np.int64)


class OpenLoop:
    """Every row of the trace at its own time, whatever becomes of the others."""

    def __init__(self, env: Clock, cluster: Cluster, table: RequestTable) -> None:
        self.env = env
        self.cluster = cluster
        self._arrival = table.arrival
        self._chunk: list[int] = []
        self._offset = 0  # row of the chunk's first time
        self._next = 0
        self._arm()

    CHUNK = 1 << 16

    def _arm(self) -> None:
        if self._next == len(self._chunk):
            self._offset += self._next
            self._next = 0
            self._chunk = as_ticks(self._arrival[self._offset : self._offset + self.CHUNK]).tolist()
            if not self._chunk:
                return
        Moment(self.env, self._chunk[self._next], ARRIVALS, self._arrive)

    def _arrive(self, _: Event) -> None:
        self.cluster.submit(self._offset + self._next)
        self._next += 1
        self._arm()


class ClosedLoop:
    """`users` clients with one request at a time each, who take the rows of the trace in order, whatever their arrival.

    think_time : seconds between the end of a client's request and its next one, one value a row (of the row that is
    sent), the first of each client included.
    """

    def __init__(self, env: Clock, cluster: Cluster, users: int, think_time: Floats) -> None:
        self.env = env
        self.cluster = cluster
        self._think = as_ticks(think_time).tolist()
        self._next = 0
        cluster.on_end.append(self._ended)
        for _ in range(min(users, len(self._think))):
            self._take(env.now)

    def _take(self, now: int) -> None:
        row = self._next
        if row < len(self._think):
            self._next += 1
            Moment(self.env, now + self._think[row], ARRIVALS, partial(self._send, row))

    def _send(self, row: int, _: Event) -> None:
        self.cluster.submit(row)

    def _ended(self, request: Request, end: End, now: int) -> None:
        if not request.retried:  # else its client is not through with it
            self._take(now)


class Patience:
    """Clients that hang up: each at its own `cancel_after`, all at `timeout`, or `first_token_timeout` without a token.

    Who hung up at a timeout sends the request again up to `retries` times, `backoff` s later, doubled each time.
    Times are seconds from arrival; inf = never.
    """

    def __init__(
        self, env: Clock, cluster: Cluster, cancel_after: np.ndarray | None, timeout: float,
        first_token_timeout: float, retries: int, backoff: float,
    ) -> None:  # fmt: skip
        self.env = env
        self.cluster = cluster
        self.timeouts = 0
        self._cancel_after = cancel_after
        self._timeout = timeout
        self._first_token_timeout = first_token_timeout
        self._retries = retries
        self._backoff = backoff
        cluster.on_submit.append(self._watch)

    def _watch(self, request: Request) -> None:
        if self._cancel_after is not None and self._cancel_after[request.row] < math.inf:
            self._after(float(self._cancel_after[request.row]), self._cancel, request)
        if self._timeout < math.inf:
            self._after(self._timeout, self._give_up, request)
        if self._first_token_timeout < math.inf:
            self._after(self._first_token_timeout, self._give_up_waiting, request)

    def _after(self, delay: float, action: Callable[[Request, Event], None], request: Request) -> None:
        Moment(self.env, self.env.now + ticks(delay), ARRIVALS, partial(action, request))

    def _cancel(self, request: Request, _: Event) -> None:
        self.cluster.cancel(request)

    def _retry(self, request: Request, _: Event) -> None:
        self.cluster.submit(request.row, request.attempt + 1)

    def _give_up_waiting(self, request: Request, event: Event) -> None:
        if not 0 <= request.first_token <= self.env.now:
            self._give_up(request, event)

    def _give_up(self, request: Request, _: Event) -> None:
        if request.over or request.cancelled:
            return
        self.timeouts += 1
        self.cluster.cancel(request)
        if request.attempt < self._retries:
            request.retried = True
            delay = self._backoff * 2**request.attempt
            self._after(delay, self._retry, request)
