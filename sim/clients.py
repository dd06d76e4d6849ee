"""Clients: when requests are born, when their senders lose patience, and whether they try again."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from simpy import Environment
from simpy.events import Event

from ..costmodels.base import TICKS_PER_SECOND, ticks
from ..traces.table import RequestTable
from .cluster import Cluster
from .core import Request
from .events import ARRIVALS, Moment
from .records import End


def arrival_ticks(table: RequestTable) -> np.ndarray:
    """Arrival times as ticks, int64: whole seconds and their fraction apart, so that a year keeps its nanoseconds."""
    whole = np.floor(table.arrival)
    return whole.astype(np.int64) * TICKS_PER_SECOND + np.rint((table.arrival - whole) * TICKS_PER_SECOND).astype(np.int64)


class OpenLoop:
    """Every row of the trace at its own time, whatever becomes of the others."""

    def __init__(self, env: Environment, cluster: Cluster, table: RequestTable) -> None:
        self.env = env
        self.cluster = cluster
        self._times = arrival_ticks(table)
        self._chunk: list[int] = []
        self._offset = 0  # row of the chunk's first time
        self._next = 0
        self._arm()

    CHUNK = 1 << 16

    def _arm(self) -> None:
        if self._next == len(self._chunk):
            self._offset += self._next
            self._next = 0
            self._chunk = self._times[self._offset : self._offset + self.CHUNK].tolist()
            if not self._chunk:
                return
        Moment(self.env, self._chunk[self._next], ARRIVALS, self._arrive)

    def _arrive(self, _: Event) -> None:
        self.cluster.submit(self._offset + self._next)
        self._next += 1
        self._arm()


class ClosedLoop:
    """`users` clients, each with one request at a time: the next row is sent `think_time` s after an answer.

    Rows are taken from the trace in order and their arrival times ignored.
    """

    def __init__(self, env: Environment, cluster: Cluster, rows: int, users: int, think_time: float) -> None:
        self.env = env
        self.cluster = cluster
        self._rows = rows
        self._next = 0
        self._think = ticks(think_time)
        cluster.on_end.append(self._ended)
        for _ in range(min(users, rows)):
            Moment(env, env.now, ARRIVALS, self._send)

    def _send(self, _: Event) -> None:
        if self._next < self._rows:
            self._next += 1
            self.cluster.submit(self._next - 1)

    def _ended(self, request: Request, end: End, now: int) -> None:
        Moment(self.env, now + self._think, ARRIVALS, self._send)


class Patience:
    """Clients that hang up: each at its own `cancel_after`, all at `timeout`, or at `first_token_timeout` without a token.

    Who hung up at a timeout sends the request again up to `retries` times, `backoff` s later, doubled each time.
    Times are seconds from arrival; inf = never.
    """

    def __init__(
        self, env: Environment, cluster: Cluster, cancel_after: np.ndarray | None, timeout: float,
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
            self._after(float(self._cancel_after[request.row]), lambda _: self.cluster.cancel(request))
        if self._timeout < math.inf:
            self._after(self._timeout, lambda _: self._give_up(request))
        if self._first_token_timeout < math.inf:
            self._after(self._first_token_timeout, lambda _: request.first_token < 0 and self._give_up(request))

    def _after(self, delay: float, action: Callable[[Event], object]) -> None:
        Moment(self.env, self.env.now + ticks(delay), ARRIVALS, action)

    def _give_up(self, request: Request) -> None:
        if request.over or request.cancelled:
            return
        self.timeouts += 1
        self.cluster.cancel(request)
        if request.attempt < self._retries:
            delay = self._backoff * 2**request.attempt
            self._after(delay, lambda _: self.cluster.submit(request.row, request.attempt + 1))
