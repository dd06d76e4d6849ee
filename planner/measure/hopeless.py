"""Watches a run against an SLO and ends it as soon as one of the objectives is out of reach."""

from __future__ import annotations

from collections.abc import Callable
from math import floor

from ...configs.slo import SLO, Objective
from ...costmodels.base import TICKS_PER_SECOND
from ...sim.core import Request
from ...sim.records import End
from ...traces.table import RequestTable

_LATENCIES: dict[str, Callable[[Request], int]] = {  # ticks, as `vllm bench serve` defines them
    "ttft": lambda r: r.first_token - r.arrival,
    "tpot": lambda r: (r.last_token - r.first_token) // max(1, r.generated - 1),
    "e2el": lambda r: r.last_token - r.arrival,
}


class Hopeless:
    """A listener for `run(on_end=...)`; `objective` is the text of the one that can no longer be met, or "".

    It never gives up too early: whatever the requests to come do, a full run would miss that objective as well. What
    has no such bound from what has ended (ITL, throughput, standard deviations) it leaves to the report.

    table : the requests of the run. attempts : how often each of them may be sent. among : requests in all, where the
    run has only some of them and the others may all be good.
    excess : go on until so many times the requests that may be beyond a percentile, or not good, are.
    """

    def __init__(
        self, slo: SLO, table: RequestTable, attempts: int = 1, *, among: int = 0, excess: float = 1.0
    ) -> None:
        self.objective = ""
        good, most = _Good(slo, table), among or len(table)
        checks = ((o.text, _check(o, most, attempts, good, excess)) for o in slo.objectives)
        self._checks = [(text, check) for text, check in checks if check]

    def __call__(self, request: Request, end: End, now: int) -> None:
        """Count a request that has ended."""
        for text, out_of_reach in self._checks:
            if out_of_reach(request, end):
                self.objective = text
                raise KeyboardInterrupt


class _Percentile:
    """Of n values a percentile lies between the order statistics around (n - 1) p; it is a miss if the lower one is.

    That takes n - floor((n - 1) p) misses, a number that grows with n: what is enough for the most requests that may
    finish is enough for fewer.
    """

    def __init__(self, objective: Objective, most: int, percent: float, excess: float) -> None:
        self._objective = objective
        self._enough = excess * (most - max(0, floor((most - 1) * percent / 100 - 1e-6)))
        self._latency = _LATENCIES[objective.metric]
        self._misses = 0

    def __call__(self, request: Request, end: End) -> bool:
        if end == End.FINISHED and not self._objective.met(self._latency(request) / TICKS_PER_SECOND):
            self._misses += self._objective.metric != "tpot" or request.generated > 1  # one token has no TPOT
        return self._misses >= self._enough


class _Mean:
    """The mean of at most n values that are not negative is at least the sum so far over n."""

    def __init__(self, objective: Objective, most: int) -> None:
        self._objective, self._most = objective, most
        self._latency = _LATENCIES[objective.metric]
        self._sum = 0

    def __call__(self, request: Request, end: End) -> bool:
        if end == End.FINISHED:
            self._sum += self._latency(request)
        return not self._objective.met(self._sum / TICKS_PER_SECOND / self._most)


class _Goodput:
    """All that may still be good, of these and of what has ended badly: no share can be higher.

    A request that is sent again counts as offered again, and may be good then.
    """

    def __init__(self, objective: Objective, most: int, attempts: int, good: _Good, excess: float) -> None:
        self._objective, self._hopeful, self._attempts, self._good = objective, most, attempts, good
        self._bad, self._excess = 0, excess

    def __call__(self, request: Request, end: End) -> bool:
        if end == End.FINISHED and self._good(request):
            return False
        self._bad += 1
        self._hopeful -= end == End.FINISHED or request.attempt + 1 == self._attempts
        offered = self._hopeful + self._bad
        return not self._objective.met((offered - self._bad / self._excess) / offered)


class _Good:
    """Whether a finished request keeps the limits of its class."""

    def __init__(self, slo: SLO, table: RequestTable) -> None:
        labels = table.request_class
        self._codes = labels.codes.tolist() if labels and slo.classes else None
        names = labels.names if labels else ()
        self._usual = list(slo.limits.items())
        self._classes = {names.index(name): list(own.items()) for name, own in slo.classes.items() if name in names}

    def __call__(self, request: Request) -> bool:
        limits = self._usual if self._codes is None else self._classes.get(self._codes[request.row], self._usual)
        return all(_LATENCIES[metric](request) / TICKS_PER_SECOND <= limit for metric, limit in limits)


def _check(
    objective: Objective, most: int, attempts: int, good: _Good, excess: float
) -> Callable[[Request, End], bool] | None:
    """What can tell early that `objective` is missed, if anything can."""
    if objective.metric == "goodput" and objective.operator in (">=", ">"):
        return _Goodput(objective, most, attempts, good, excess)
    if objective.metric not in _LATENCIES or objective.operator not in ("<=", "<"):
        return None
    if objective.statistic == "mean":
        return _Mean(objective, most)
    percent = {"median": 50.0, "p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0}.get(objective.statistic)
    return None if percent is None else _Percentile(objective, most, percent, excess)
