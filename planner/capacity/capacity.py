"""The highest load that meets an SLO: bisection over a trace's rate, every run with the same requests and draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import sqrt
from typing import Any, Literal

from ...configs.plan import LONGEST, Plan
from ...configs.slo import SLO
from ...errors import InputError, unknown_name
from ...sim.deploy import deploy
from ...sim.report.metrics import Finished
from ...sim.report.report import build_report
from ...sim.run import run
from ...traces.table import RequestTable
from ...traces.transform import scale_rate
from ..measure.hopeless import Hopeless

UNSERVED = "the queue grows as long as requests arrive"
_IDLE = 0.01  # requests in the system on average, at a load that counts as none
_HEAP = 1e-3  # seconds in which all requests arrive, at a load that counts as the highest


@dataclass(frozen=True)
class Probe:
    """One run of the search. missed : the objectives that it missed, and `UNSERVED`; one of them if it was stopped."""

    rate_scale: float
    request_rate: float
    missed: tuple[str, ...]
    stopped: bool
    mean_e2el: float
    report: dict[str, Any] = field(repr=False, compare=False)

    @property
    def met(self) -> bool:
        """Whether the load can be served within the SLO."""
        return not self.missed


@dataclass(frozen=True)
class CapacityResult:
    """What a plan can carry.

    verdict : "found"; "none" where the SLO is missed even when requests hardly ever meet; "every" where it is met even
    when all requests of the trace arrive at once, so that a longer trace is needed.
    best : the run at the highest load that meets the SLO. worst : the one at the lowest load that was seen to miss it,
    `precision` above. probes : every run, in order.
    """

    verdict: Literal["found", "none", "every"]
    best: Probe | None
    worst: Probe | None
    probes: tuple[Probe, ...]


def check_plan(plan: Plan) -> None:
    """Raise `InputError` where clients wait for their answers: the load is then no matter of the trace."""
    if plan.clients.closed_loop:
        raise InputError("clients.closed_loop", "clients that wait for their answers", "a plan with open-loop clients")


def check_slo(slo: SLO, table: RequestTable) -> None:
    """Raise `InputError` for an SLO without objectives, or with limits of a class that the trace has not."""
    if not slo.objectives:
        expected = "at least one, such as `goodput >= 99%`: the limits of single requests say nothing of a load"
        raise InputError("objectives", "none", expected)
    classes = table.request_class.names if table.request_class else ()
    for name in slo.classes:
        if name not in classes:
            raise unknown_name(f"classes.{name}", "request class of this trace", name, classes)


def misses(report: dict[str, Any]) -> tuple[str, ...]:
    """What keeps the load of a report from being one that the plan can carry."""
    missed = tuple(o["objective"] for o in report["slo"]["objectives"] if not o["met"])
    return (*missed, UNSERVED) if report["simulation"]["load"]["verdict"] == "overloaded" else missed


def request_rate(table: RequestTable) -> float:
    """Requests a second from the first arrival to the last. Raises `InputError` where all arrive at once."""
    span = float(table.arrival[-1] - table.arrival[0]) if len(table) else 0.0
    if span <= 0:
        found = f"{len(table)} requests within 0 s"
        raise InputError(table.source.name, found, "requests at different times: their rate is what is searched")
    return (len(table) - 1) / span


def capacity(
    table: RequestTable,
    plan: Plan,
    slo: SLO,
    *,
    seed: int = 0,
    start: float = 1.0,
    precision: float = 0.01,
    stop_early: bool = True,
    progress: Callable[[Probe], None] | None = None,
) -> CapacityResult:
    """The highest rate scale of `table` at which `plan` meets every objective of `slo` and keeps up with arrivals.

    Arrivals are scaled; which requests come in which order, their lengths and all random draws stay the same from run
    to run. Where more load helps now and then, the result is one of the places where the verdict turns.

    seed : of every run. start : the rate scale to try first. precision : of the result, as a share of it.
    stop_early : end a run when an objective is out of reach; changes nothing but the time the search takes.
    progress : told of every run that has ended.

    Raises `InputError` for an SLO without objectives, a plan whose clients wait for their answers or that cannot start,
    and a trace whose requests all arrive at once.
    """
    check_plan(plan)
    check_slo(slo, table)
    search = _Search(table, plan, slo, seed, stop_early, progress)
    low, high = search.bracket(start)
    while low and high and high.rate_scale > low.rate_scale * (1 + precision):
        middle = search.probe(sqrt(low.rate_scale * high.rate_scale))
        low, high = (middle, high) if middle.met else (low, middle)
    verdict: Literal["found", "none", "every"] = "none" if not low else "found" if high else "every"
    return CapacityResult(verdict, low, high, tuple(search.probes))


class _Search:
    """The runs of one search."""

    def __init__(
        self,
        table: RequestTable,
        plan: Plan,
        slo: SLO,
        seed: int,
        stop_early: bool,
        progress: Callable[[Probe], None] | None,
    ) -> None:
        self._table, self._plan, self._slo, self._seed = table, plan, slo, seed
        self._stop_early, self._progress = stop_early, progress
        self._rate = request_rate(table)
        self._deployments = deploy(plan)  # once: runs share the step times that they find
        self.probes: list[Probe] = []

    def probe(self, rate_scale: float, to_the_end: bool = False) -> Probe:
        """Run the trace at a load."""
        table = scale_rate(self._table, rate_scale)
        watch = Hopeless(self._slo, table, 1 + self._plan.clients.retries)
        on_end = watch if self._stop_early and not to_the_end else None
        result = run(table, self._plan, seed=self._seed, on_end=on_end, deployments=self._deployments)
        if result.interrupted and not watch.objective:
            raise KeyboardInterrupt
        e2el = Finished(result).e2el
        mean = float(e2el.mean()) if len(e2el) else 0.0
        report = {} if watch.objective else build_report(result, self._slo)
        missed = misses(report) if report else (watch.objective,)
        probe = Probe(rate_scale, self._rate * rate_scale, missed, not report, mean, report)
        self.probes.append(probe)
        if self._progress:
            self._progress(probe)
        return probe

    def bracket(self, start: float) -> tuple[Probe | None, Probe | None]:
        """A load that meets the SLO and a higher one that does not, at most twice as high; None where there is none."""
        probe = self.probe(start)
        if probe.met:
            heap = self.probe(max(2 * start, float(self._table.arrival[-1] - self._table.arrival[0]) / _HEAP))
            if heap.met:
                return heap, None
            low, high = probe, probe
            while high.met:
                low, high = high, self.probe(min(2 * high.rate_scale, heap.rate_scale))
            return low, high
        idle = self.probe(self._idle(probe), to_the_end=True)
        if not idle.met:
            return None, idle
        low = high = probe
        while not low.met:
            low, high = self.probe(max(low.rate_scale / 2, idle.rate_scale)), low
        return low, high

    def _idle(self, probe: Probe) -> float:
        """A rate scale, below that of `probe`, at which requests hardly ever meet (by Little's law)."""
        meeting = probe.request_rate * probe.mean_e2el
        least = float(self._table.arrival[-1]) / LONGEST  # or the clock ends before the trace
        return max(least, probe.rate_scale * min(0.5, _IDLE / meeting if meeting else 0.5))
