"""A domain with two streams: a batch of prompts and a batch of decodes may be in flight at once. No leaps.

Each runs at the speed that its share of the accelerator allows; whenever the other one begins or ends, what is left of
it goes on at another speed.
"""

from __future__ import annotations

from typing import Any

from simpy.events import Event

from ...costmodels.shared import Composition, SharedTimes
from ..core import Step
from ..events import Moment
from ..policies.nexus import DECODES, PROMPTS
from .pipeline import Flight, PipelineDomain
from .rank import Batch

_WHOLE = 1 << 30  # of a batch's work


class StreamFlight(Flight):
    """A batch under way. left : of `_WHOLE`, as of `since`. ticks : what the whole would take at its present speed."""

    def __init__(
        self, batch: Batch, composition: Composition, start: int, host: int, pure: int, own: list[int]
    ) -> None:
        super().__init__(batch, start, 0, host, pure, own)
        self.composition = composition
        self.since = start
        self.left = _WHOLE
        self.ticks = 0
        self.alarm: Moment | None = None


class StreamsDomain(PipelineDomain):
    """Two batches in flight, told apart by what they compute. times : of batches at shares, set before the run."""

    times: SharedTimes

    def _set_up(self) -> None:
        super()._set_up()
        self._stage_free = [0, 0]  # as many batches in flight as streams
        self._under_way: dict[int, StreamFlight] = {}
        self._seen = 0
        self._logged = 0

    def crash(self) -> list[Any]:
        """Lose everything, now."""
        lost = super().crash()
        self._stage_free = [0, 0]
        self._under_way.clear()
        return lost

    def _boundary(self, event: Event) -> None:
        now = self.env.now
        if self._under_way:
            self.busy += now - self._seen
        self._seen = now
        super()._boundary(event)

    def _land_due(self, now: int) -> None:
        for stream, flight in list(self._under_way.items()):
            if flight.end <= now:
                del self._under_way[stream]
                self.flights.remove(flight)
                self._land(flight)

    def _fill(self, now: int) -> None:
        """Begin what can begin, then find out how fast everything runs."""
        policy: Any = self.rank.policy
        for stream in (PROMPTS, DECODES):
            if stream not in self._under_way:
                policy.turn_to(stream)
                step = self._decide(now)
                if step is not None:
                    self._begin_flight(stream, step, now)
        self._pace(now)

    def _begin_flight(self, stream: int, step: Step, now: int) -> None:
        batch = self.rank.launch(step, now)
        self.rank.flying.append(batch)
        composition = Composition(batch.chunks, *self._composition(batch, step))
        alone = self.times.alone
        pure = alone(composition) if batch.decodes else 0
        own = [alone(Composition((chunk,), 0, 0, 0, 0)) for chunk in batch.chunks]
        host = self.cost.host(batch.decodes + len(batch.chunks))
        flight = StreamFlight(batch, composition, now, host, pure, own)
        self._under_way[stream] = flight
        self.flights.append(flight)

    def _pace(self, now: int) -> None:
        """Book what was done at the old speeds and go on at the new ones."""
        flights = self._under_way
        for flight in flights.values():
            if flight.ticks:
                flight.left = max(0, flight.left - (now - flight.since) * _WHOLE // flight.ticks)
            flight.since = now
        if len(flights) == 2:
            prompts, decodes = flights[PROMPTS], flights[DECODES]

            def times(share: float) -> tuple[int, int]:
                return self.times.together(prompts.composition, decodes.composition, share)

            policy: Any = self.rank.policy
            found = dict(zip((PROMPTS, DECODES), times(policy.divide(self.rank, times)), strict=True))
        else:
            found = {stream: self.times.alone(flight.composition) for stream, flight in flights.items()}
        for stream, flight in flights.items():
            flight.ticks = found[stream] + flight.host
            end = now - (-flight.left * flight.ticks // _WHOLE)
            if end != flight.end:
                if flight.alarm:
                    self._landings.discard(flight.alarm)
                flight.end, flight.alarm = end, Moment(self.env, end, self.place, self._boundary)
                self._landings.add(flight.alarm)

    def _log(self, batch: Batch, k: int, start: int, base: int, slope: int) -> None:
        """In order of time: a batch that ends after another one begins, in the log, no earlier than that one did."""
        end = start + base
        self._logged = max(self._logged, min(start, end))
        super()._log(batch, k, self._logged, end - self._logged, slope)
