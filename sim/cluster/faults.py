"""Faults: replicas that crash and come back, stragglers, degraded links, and what becomes of the requests they hit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Protocol

from ...configs.dynamics import Fault, Faults
from ...costmodels.base import CostModel, Piece, StageCost, ticks
from ...traces.streams import Stream
from ..core import Request
from ..records import End
from .cluster import Cluster
from .limbo import Limbo
from .replica import Replica
from .sites import Sites


class Mover(Protocol):
    """A service that has requests which no engine has."""

    def crashed(self, engines: Sequence[Any]) -> list[Request]:
        """Engines have lost their memory. Returns the requests whose KV cache went with it."""
        ...


class FaultInjector:
    """Lets faults happen and requests recover, as `spec` says. start_up : ticks that a replica of a pool needs.
    movers : are told of crashes."""

    def __init__(
        self, cluster: Cluster, replicas: Sequence[Replica], sites: Sites, limbo: Limbo, spec: Faults,
        events: Sequence[Fault], start_up: Mapping[str, int], seed: int,
        movers: Sequence[Mover],
    ) -> None:  # fmt: skip
        self.cluster, self.sites, self.limbo, self.spec = cluster, sites, limbo, spec
        self._start_up = start_up
        self._movers = movers
        self._by_name = {f"{r.pool}/{r.number}": r for r in replicas}
        self._stream = Stream(seed, "faults")
        self._waits: set[int] = set()  # ids of replicas whose next random crash is drawn
        self.crashes = self.hit = 0
        for fault in events:
            cluster.post(ticks(fault.at), self._happen, fault)
        if spec.rate:
            self._rate = spec.rate
            cluster.on_submit.append(self._draw_all)

    def _happen(self, fault: Fault) -> None:
        if fault.kind == "link":
            self._degrade(fault)
            return
        replica = self._by_name[fault.replica]
        if fault.kind in ("crash", "gpu_loss"):
            self.crash(replica, None if fault.duration is None else ticks(fault.duration))
        else:
            for engine in replica.domains:
                cost = engine.cost
                engine.change_cost(Slowed(cost, fault.factor))
                if fault.duration is not None:
                    self._after(fault.duration, engine.change_cost, cost)

    def _degrade(self, fault: Fault) -> None:
        """All links of a replica, or one between fabrics."""
        if fault.replica in self._by_name:
            engines = self._by_name[fault.replica].domains
            links = [link for engine in engines for link in self.sites.links(engine)]
        else:
            links = [self.sites.between(fault.replica)]
        self.sites.network.scale(links, fault.factor)
        if fault.duration is not None:
            self._after(fault.duration, self.sites.network.scale, links, 1.0)

    def _after(self, seconds: float, callback: Any, *arguments: object) -> None:
        self.cluster.post(self.cluster.env.now + ticks(seconds), callback, *arguments)

    # -- crashes -------------------------------------------------------------------------------------------------

    def _draw_all(self, _: Request | None = None) -> None:
        """Each replica that serves has its next crash drawn; memoryless, so it does not matter when."""
        if len(self._waits) < len(self._by_name):
            for replica in self._by_name.values():
                if replica.id not in self._waits:
                    self._waits.add(replica.id)
                    wait = self._rate.mean_time_between_failures * float(self._stream.exponential(1)[0])
                    self._after(min(wait, 1e8), self._strike, replica)

    def _strike(self, replica: Replica) -> None:
        self._waits.remove(replica.id)
        if not self.cluster.through:
            if replica.state in ("up", "draining"):
                repair = self._rate.mean_time_to_repair * float(self._stream.exponential(1)[0])
                self.crash(replica, ticks(min(repair, 1e8)))
            self._draw_all()

    def crash(self, replica: Replica, repair: int | None) -> None:
        """A replica loses everything; `repair` : ticks until it starts again, None = never."""
        if replica.state not in ("up", "draining"):
            return
        self.crashes += 1
        engines = list(replica.domains)
        lost = [request for engine in engines for request in engine.crash()]
        for mover in self._movers:
            lost += mover.crashed(engines)
        lost.sort(key=lambda request: request.index)
        self.cluster.set_state(replica, "down" if repair is None else "starting")
        if repair is not None:
            at = self.cluster.env.now + repair + self._start_up[replica.pool]
            self.cluster.post(at, self.cluster.set_state, replica, "up")
        self.hit += len(lost)
        for request in lost:
            self._recover(request)

    def _recover(self, request: Request) -> None:
        """Its KV cache is gone, and what it had been given is not."""
        self.cluster.replicas[request.replica].release(request)
        self.limbo.hold(request)
        if request.cancelled:
            self.limbo.cancel(request)
        else:
            self.cluster.post(self.cluster.env.now + 1 + ticks(self.spec.detection), self._noticed, request)

    def _noticed(self, request: Request) -> None:
        if not self.limbo.let_go(request):
            return
        if self.spec.in_flight == "recompute":
            self.cluster.dispatch(request)
            return
        again = self.spec.in_flight == "retry" and request.attempt < self.spec.retries
        request.retried = again
        self.cluster.gone(request, self.cluster.env.now, End.FAILED)
        if again:
            self._after(self.spec.backoff, self.cluster.submit, request.row, request.attempt + 1)


class Slowed:
    """A cost model whose iterations take `factor` times as long, host time included.

    A leap's iterations must differ by a whole number of ticks: where the factor is not whole, no leaps.
    """

    def __init__(self, cost: CostModel, factor: float) -> None:
        self._cost = cost
        self._factor = Fraction(factor).limit_denominator(1000)
        self.stages: Sequence[StageCost] = [_SlowedStage(stage, self._factor) for stage in cost.stages]
        self.extremes, self.label, self.meters = cost.extremes, cost.label, cost.meters

    def hop(self, tokens: int) -> int:
        """As `CostModel.hop`; links are not slower."""
        return self._cost.hop(tokens)

    def host(self, sequences: int) -> int:
        """As `CostModel.host`."""
        return round(self._cost.host(sequences) * self._factor)

    def describe(self) -> dict[str, object]:
        """Of the model beneath."""
        return self._cost.describe()


class _SlowedStage:
    def __init__(self, stage: Any, factor: Fraction) -> None:
        self._stage, self._factor = stage, factor

    def piece(self, *composition: Any) -> Piece:
        base, slope, valid, outside = self._stage.piece(*composition)
        factor = self._factor
        whole = factor.denominator == 1
        return round(base * factor), round(slope * factor), valid if whole else 1, round(outside * factor)
