"""Generate a trace from a spec: whole, in chunks of bounded size, or as a closed loop of users."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .arrivals import StepRate, renewal
from .assemble import NANOSECONDS
from .columns import Floats, Labels
from .drawn import Drawn
from .laws import mean_tokens
from .lengths import draw_lengths
from .modulation import day_factors, step_rate
from .sessions import draw_sessions, warm_up
from .spec import DAY, LABELS, Spec, StreamSpec
from .streams import Stream
from .table import RequestTable, Source

PIECE_ROWS = 250_000  # expected rows of a piece, at most; a piece is a day or a day halved some times


@dataclass(frozen=True)
class ClosedLoop:
    """`users` clients that each send a request, wait for its end, think, and send the next one.

    requests : what they send, taken in order by whoever is free; all arrivals are 0.0.
    think_time : seconds that the taker of row i thinks before sending it (drawn; the first `users` rows as well).
    """

    users: int
    think_time: Floats
    requests: RequestTable


def generate(spec: Spec, seed: int = 0, *, keep_failed: bool = False) -> RequestTable:
    """The trace of `spec`, a function of spec and seed alone. See `generate_chunks` for traces of many millions."""
    return _table(spec, Drawn.joined(list(_pieces(spec, seed))), keep_failed)


def generate_chunks(spec: Spec, seed: int = 0, *, keep_failed: bool = False) -> Iterator[RequestTable]:
    """The rows of `generate`, in the same order, as consecutive tables of a day or less each; none is empty."""
    for piece in _pieces(spec, seed):
        if len(piece) and (keep_failed or piece.output.any()):
            yield _table(spec, piece, keep_failed)


def closed_loop(spec: Spec, seed: int = 0) -> ClosedLoop:
    """The clients of a `closed_loop` spec, their think times and requests drawn."""
    if spec.kind != "closed_loop" or spec.think_time is None or spec.requests is None:
        raise InputError(spec.name, f"the kind {spec.kind}", "kind closed_loop")
    n = spec.requests
    (stream,) = spec.streams
    prompt, output = draw_lengths(stream, seed, 0, n)
    drawn = Drawn(np.zeros(n), prompt, output, np.zeros(n, np.int32), np.full(n, -1))
    think_time = spec.think_time.draw(Stream(seed, f"trace/{stream.name}/think-time").uniform(n))
    return ClosedLoop(spec.users, think_time, _table(spec, drawn, keep_failed=True))


class _StreamState:
    """Where one stream stands between two pieces."""

    def __init__(self, spec: Spec, index: int, seed: int) -> None:
        self.spec, self.index, self.seed = spec, index, seed
        self.stream: StreamSpec = spec.streams[index]
        self._factors = day_factors(spec, self.stream, seed)
        self._wait: float | None = None
        self._sessions = 0
        self._later: list[Drawn] = []  # turns that fall into later pieces

    def piece(self, number: int, start: float, end: float) -> Drawn:
        """The stream's requests with start <= time < end, in any order."""
        stream, sessions = self.stream, self.stream.sessions
        begin, share = start, 1.0
        if sessions is not None:
            begin = start if number else -warm_up(sessions)  # some sessions are under way when the trace begins
            share = 1.0 / mean_tokens(sessions.turns)
        rate = step_rate(self.spec, stream, self._factors, begin, end)
        draws = Stream(self.seed, f"trace/{stream.name}/arrivals/{number}")
        times, self._wait = renewal(draws, StepRate(rate.edges, rate.rates * share), stream.shape, self._wait)
        if sessions is None:
            prompt, output = draw_lengths(stream, self.seed, number, len(times))
            session = np.full(len(times), -1)
        else:
            times, prompt, output, session = draw_sessions(stream, sessions, self.seed, number, times)
            session += self._sessions
            self._sessions = int(session[-1]) + 1 if len(session) else self._sessions
        if stream.failures:
            failed = Stream(self.seed, f"trace/{stream.name}/failures/{number}").uniform(len(times)) < stream.failures
            prompt, output = np.where(failed, 0, prompt), np.where(failed, 0, output)
        new = Drawn(np.round(times, NANOSECONDS), prompt, output, np.full(len(times), self.index, np.int32), session)
        rows = Drawn.joined([*self._later, new])
        self._later = [rows.take(rows.time >= end)]
        return rows.take((rows.time >= max(start, 0.0)) & (rows.time < end))


def _pieces(spec: Spec, seed: int) -> Iterator[Drawn]:
    """The trace piece by piece, each in order of time (streams in their order where times are equal)."""
    if spec.kind == "closed_loop":
        raise InputError(spec.name, "a closed loop has no arrival times of its own", "an open kind of trace here")
    rows_a_day = sum(stream.rate for stream in spec.streams) * DAY
    length = DAY / 2 ** max(0, math.ceil(math.log2(rows_a_day / PIECE_ROWS)))
    states = [_StreamState(spec, i, seed) for i in range(len(spec.streams))]
    left = spec.requests
    for number in count():
        start, end = number * length, min((number + 1) * length, spec.duration)
        rows = Drawn.joined([state.piece(number, start, end) for state in states])
        rows = rows.take(np.argsort(rows.time, kind="stable")[:left])
        yield rows
        if left is not None:
            left -= len(rows)
        if end >= spec.duration or left == 0:
            return


def _table(spec: Spec, rows: Drawn, keep_failed: bool) -> RequestTable:
    failed = rows.output == 0
    source = Source(
        name=spec.name,
        format=spec.kind,
        rows=len(rows),
        failed=int(failed.sum()),
        dropped=0 if keep_failed else int(failed.sum()),
        origin=spec.starts_at,
    )
    if source.dropped:
        rows = rows.take(~failed)
    if len(rows) == 0:
        raise InputError(spec.name, "no request falls into the trace", "a longer duration or a higher rate")
    labels: dict[str, Any] = {}
    for name in LABELS:
        names = [stream.labels.get(name, "") for stream in spec.streams]
        if any(names):
            known = [*dict.fromkeys(filter(None, names))]
            codes = np.array([known.index(n) if n else -1 for n in names], np.int64)
            labels[name] = _numbered(codes[rows.stream], known.__getitem__)
    if any(stream.sessions for stream in spec.streams):
        n = len(spec.streams)
        keys = np.where(rows.session < 0, -1, rows.session * n + rows.stream)
        labels["session"] = _numbered(keys, lambda key: f"{spec.streams[key % n].name}-{key // n}")
    priority = None
    if any(stream.priority is not None for stream in spec.streams):
        priority = np.array([stream.priority or 0 for stream in spec.streams], np.int64)[rows.stream]
    return RequestTable(rows.time, rows.prompt, rows.output, priority=priority, source=source, **labels)


def _numbered(keys: NDArray[np.int64], name: Callable[[int], str]) -> Labels:
    """Labels from numbers (-1 = none), renumbered in order of first appearance as `Labels.of` does."""
    used, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    order = order[used[order] >= 0]
    place = np.full(len(used), -1, np.int32)
    place[order] = np.arange(len(order))
    return Labels(place[inverse], tuple(name(key) for key in used[order].tolist()))
