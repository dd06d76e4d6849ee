"""Links that transfers share fairly: exact in whole bytes and ticks, with events only where a rate changes.

Rates are max-min fair (progressive filling; Bertsekas & Gallager, "Data Networks", 6.5.2): the fullest link divides
what it has among its flows, those flows are settled, and so on. A rate is a whole number of bytes/s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from simpy.events import Event

from ...costmodels.base import TICKS_PER_SECOND
from ..events import ARRIVALS, Clock, Moment


class Link:
    """One direction of a connection. capacity : bytes/s. carried : bytes that have passed."""

    __slots__ = ("capacity", "carried", "flows", "name", "nominal")

    def __init__(self, name: str, capacity: int) -> None:
        self.name = name
        self.nominal = self.capacity = capacity
        self.flows: dict[Flow, None] = {}
        self.carried = 0


class Pipe(Link):
    """A link between fabrics. What hides behind computations takes turns there: taken : until this tick."""

    __slots__ = ("taken",)

    def __init__(self, name: str, capacity: int) -> None:
        super().__init__(name, capacity)
        self.taken = 0

    def spare(self, until: int) -> float:
        """Bytes that it might have carried by then beside all that it has, and has under way."""
        return until / TICKS_PER_SECOND * self.capacity - self.carried - sum(flow.size for flow in self.flows)


class Flow:
    """`size` bytes on their way over all links of `path` at once.

    left : what is to be sent, in bytes x ticks a second, as of `since`.
    """

    __slots__ = ("alarm", "arrived", "latency", "left", "path", "rate", "since", "size")

    def __init__(self, path: Sequence[Link], size: int, latency: int, arrived: Callable[[], None], now: int) -> None:
        self.path = path
        self.size = size
        self.latency = latency
        self.arrived = arrived
        self.left = size * TICKS_PER_SECOND
        self.rate = 0
        self.since = now
        self.alarm: Moment | None = None

    def arrive(self, event: Event) -> None:
        """Its last byte is there, unless it was aborted."""
        if event is self.alarm:
            self.arrived()


class Network:
    """All flows of a run. `bytes_sent` counts whole flows and the parts of aborted ones."""

    def __init__(self, env: Clock) -> None:
        self.env = env
        self.bytes_sent = 0
        self.links: list[Link] = []

    def link(self, name: str, capacity: float) -> Link:
        """A new link."""
        self.links.append(Link(name, max(1, int(capacity))))
        return self.links[-1]

    def pipe(self, name: str, capacity: float) -> Pipe:
        """A new link between fabrics."""
        pipe = Pipe(name, max(1, int(capacity)))
        self.links.append(pipe)
        return pipe

    def send(self, path: Sequence[Link], size: int, latency: int, arrived: Callable[[], None]) -> Flow:
        """Begin to send; `arrived` is called `latency` ticks after the last byte has left. An empty path takes no time
        beyond the latency."""
        flow = Flow(path, size, latency, arrived, self.env.now)
        if not path or not size:
            self.book(path, size)
            self._leave(flow)
            return flow
        for link in path:
            link.flows[flow] = None
        self._share(path)
        return flow

    def abort(self, flow: Flow) -> int:
        """End a flow that has not arrived; returns the bytes it has sent."""
        sent = flow.size
        if flow in (flow.path[0].flows if flow.path else ()):
            self._progress(flow)
            sent = flow.size - -(-flow.left // TICKS_PER_SECOND)
            self._settle(flow, sent)
        flow.alarm = None
        return sent

    def scale(self, links: Iterable[Link], factor: float) -> None:
        """From now on `links` have `factor` of their nominal capacity, at least a byte a second."""
        links = list(links)
        for link in links:
            link.capacity = max(1, int(link.nominal * factor))
        self._share(links)

    def unnoticed(self, path: Sequence[Link], seconds: float, until: int) -> float:
        """Bytes that an otherwise idle path may carry during the last `seconds` before a tick, behind a computation."""
        most = min(link.capacity for link in path) * seconds
        for pipe in path:
            if isinstance(pipe, Pipe):
                free = (until - pipe.taken) / TICKS_PER_SECOND * pipe.capacity
                most = max(0.0, min(most, free, pipe.spare(until)))
        return most

    def hide(self, path: Sequence[Link], size: int, since: int) -> None:
        """Count bytes that go unnoticed behind a computation, which began at a tick."""
        for pipe in path:
            if isinstance(pipe, Pipe):
                pipe.taken = max(pipe.taken, since) + -(-size * TICKS_PER_SECOND // pipe.capacity)
        self.book(path, size)

    def book(self, path: Sequence[Link], size: int) -> None:
        """Count bytes that have passed."""
        self.bytes_sent += size
        for link in path:
            link.carried += size

    # -- sharing -------------------------------------------------------------------------------------------------

    def _share(self, links: Iterable[Link]) -> None:
        """Give every flow that competes with one on `links`, directly or not, its fair rate."""
        touched = _competing(links)
        rates = _fair_rates(touched)
        for flow, rate in rates.items():
            if rate == flow.rate:
                continue
            self._progress(flow)
            flow.rate = rate
            self._arm(flow)

    def _progress(self, flow: Flow) -> None:
        now = self.env.now
        flow.left = max(0, flow.left - flow.rate * (now - flow.since))
        flow.since = now

    def _arm(self, flow: Flow) -> None:
        at = flow.since - (-flow.left // flow.rate)
        flow.alarm = Moment(self.env, at, ARRIVALS, partial(self._sent, flow))

    def _sent(self, flow: Flow, event: Event) -> None:
        if event is flow.alarm:  # else its rate has changed since
            self._settle(flow, flow.size)
            self._leave(flow)

    def _settle(self, flow: Flow, sent: int) -> None:
        self.book(flow.path, sent)
        for link in flow.path:
            del link.flows[flow]
        self._share(flow.path)

    def _leave(self, flow: Flow) -> None:
        flow.alarm = Moment(self.env, self.env.now + flow.latency, ARRIVALS, flow.arrive)


def _competing(links: Iterable[Link]) -> list[Link]:
    """`links` and all that are joined to them by flows, each once, in order of discovery."""
    found = dict.fromkeys(links)
    queue = list(found)
    for link in queue:
        for flow in link.flows:
            for other in flow.path:
                if other not in found:
                    found[other] = None
                    queue.append(other)
    return queue


def _fair_rates(links: Sequence[Link]) -> dict[Flow, int]:
    """Max-min fair rates of all flows on `links`, bytes/s, at least 1."""
    room = {link: link.capacity for link in links}
    open_: dict[Link, dict[Flow, None]] = {link: dict(link.flows) for link in links if link.flows}
    rates: dict[Flow, int] = {}
    while open_:
        bottleneck = min(open_, key=lambda link: room[link] // len(open_[link]))
        share = max(1, room[bottleneck] // len(open_[bottleneck]))
        for flow in list(open_[bottleneck]):
            rates[flow] = share
            for link in flow.path:
                room[link] = max(0, room[link] - share)
                open_[link].pop(flow, None)
                if not open_[link]:
                    del open_[link]
    return rates
