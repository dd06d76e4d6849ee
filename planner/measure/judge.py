"""Simulations with a verdict: a plan and a trace in, whether the SLO holds out. Counted, cached, and cut short."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...configs.plan import Plan
from ...costmodels.base import seconds
from ...costmodels.energy import idle_watts
from ...sim.report.metrics import Finished
from ...sim.report.report import build_report
from ...sim.run import Run, run
from ...traces.table import RequestTable
from .cache import Cache, fingerprint
from .deployed import Deployed
from .hopeless import Hopeless
from .intervals import intervals
from .targets import Targets, blame, describe

_PROBE = 0.1  # share of the trace that is tried first: the busiest stretch of so many requests
_BUSY = 1.5  # times the average tokens a second: where the busiest stretch brings less, it tells little
_CLEAR = 10.0  # times the misses that may be: a sample has shown how fast they grow


@dataclass(frozen=True)
class Verdict:
    """What a simulation said.

    met : all objectives. objectives : as in a report. over : by objective, the share of requests over its limit.
    beyond : requests over a limit, as a multiple of those that may be, for the worst objective.
    stopped : the run ended where its answer was certain; then all is of those who had finished, and `over` and `beyond`
    take the others to fare likewise. requests : simulated. intervals : of the objectives, where a replay met them all.
    mean_e2el : seconds. token_seconds : in the KV cache while it decodes, of a request on average.
    least_tpot : seconds. throughput : requests/s. watts : of all accelerators on average, where their power is known.
    busy_watts : by pool, of a replica while it works.
    """

    met: bool
    objectives: list[dict[str, Any]]
    over: list[float]
    beyond: float
    stopped: bool
    requests: int
    mean_e2el: float
    token_seconds: float
    least_tpot: float
    throughput: float
    watts: float
    busy_watts: dict[str, float]
    intervals: dict[str, Any] = field(default_factory=dict)

    @property
    def missed(self) -> str:
        """The objectives that were missed, in words."""
        return describe(self.objectives) + (f", seen after {self.requests:,} requests" if self.stopped else "")


def _silent(line: str) -> None:
    """Nobody listens."""


@dataclass
class Judge:
    """Runs simulations with one seed, so that all plans see the same requests: common random numbers.

    requests, hits : simulated so far, and verdicts that came out of the cache. log : called with a line of progress.
    idle : ask the cache only, and raise `LookupError` where it does not know.
    """

    cache: Cache
    seed: int = 0
    log: Callable[[str], None] = _silent
    requests: int = 0
    hits: int = 0
    simulations: int = 0
    idle: bool = False
    _ready: Deployed = field(default_factory=Deployed)

    def replay(self, plan: Plan, table: RequestTable, targets: Targets) -> Verdict:
        """The whole trace on a plan, its busiest stretch first; ends as soon as an objective is missed for certain."""
        key = self._key("replay", plan, table, targets)
        return self._cached(key, lambda: self._replay(plan, table, targets))

    def _replay(self, plan: Plan, table: RequestTable, targets: Targets) -> Verdict:
        before, probe = self.requests, busiest(table, round(_PROBE * len(table)))
        apart = table.blocks is None and table.programs is None  # else some in the probe miss what came before it
        worthwhile = apart and _token_rate(probe) >= _BUSY * _token_rate(table)
        for part in (probe, table) if worthwhile else (table,):
            watch = Hopeless(targets.slo, part, among=len(table))
            result = self._run(plan, part, watch)
            if watch.objective:
                break
        verdict = replace(_verdict(result, targets), requests=self.requests - before)
        return replace(verdict, intervals=intervals(result, targets.slo, self.seed)) if verdict.met else verdict

    def sample(self, plan: Plan, table: RequestTable, targets: Targets) -> Verdict:
        """A short simulation, to its end unless an objective is missed by far."""
        key = self._key("sample", plan, table, targets)
        watch = Hopeless(targets.slo, table, excess=_CLEAR)
        return self._cached(key, lambda: _verdict(self._run(plan, table, watch), targets))

    def worker(self) -> Judge:
        """One of the same kind for another process, which counts for itself."""
        return Judge(self.cache.beside(), self.seed)

    def merge(self, other: Judge) -> None:
        """Take over what a worker has found."""
        self.cache.known.update(other.cache.known)
        self.hits += other.hits
        self.requests += other.requests
        self.simulations += other.simulations

    def knows(self, ask: Callable[[Judge], object]) -> bool:
        """Whether all that `ask` asks a judge is in the cache."""
        try:
            ask(replace(self, idle=True))
        except LookupError:
            return False
        return True

    def _run(self, plan: Plan, table: RequestTable, watch: Hopeless | None = None) -> Run:
        if self.idle:
            raise LookupError
        result = run(table, plan, seed=self.seed, deployments=self._ready(plan).deployments, on_end=watch)
        if result.interrupted and not (watch and watch.objective):
            raise KeyboardInterrupt
        self.requests += len(result.recorder.requests)
        self.simulations += 1
        return result

    def _cached(self, key: str, work: Callable[[], Verdict]) -> Verdict:
        known = self.cache.get(key)
        if known is not None:
            self.hits += 1
            return Verdict(**known)
        verdict = work()
        self.cache.put(key, dataclasses.asdict(verdict))
        return verdict

    def _key(self, kind: str, plan: Plan, table: RequestTable, asked: object) -> str:
        return fingerprint(kind, self._ready(plan).fingerprint, table.fingerprint(), str(asked), self.seed)


def _verdict(result: Run, targets: Targets) -> Verdict:
    report = build_report(result, targets.slo)
    objectives = [blame(o, report["slo"]["limits"]) for o in report["slo"]["objectives"]]
    finished = Finished(result)
    good = round((report["slo"]["goodput_of_offered"] or 0.0) * report["num_prompts"])
    judged = report["completed"] if result.interrupted else report["num_prompts"]
    over = targets.over(finished, judged - good, len(result.table))
    context = (result.table.prompt_tokens + result.table.output_tokens / 2)[finished.rows]
    return Verdict(
        met=all(objective["met"] for objective in objectives) and report["failed"] == 0,
        objectives=objectives,
        over=over,
        beyond=targets.beyond(over),
        stopped=result.interrupted,
        requests=len(result.table),
        mean_e2el=(report["mean_e2el_ms"] or 0.0) / 1e3,
        token_seconds=float((context * (finished.e2el - finished.ttft)).mean()) if len(finished) else 0.0,
        least_tpot=float(finished.tpot[finished.has_tpot].min()) if finished.has_tpot.any() else 0.0,
        throughput=report["request_throughput"] or 0.0,
        watts=_watts(result, report["simulation"]["pools"]),
        busy_watts=_busy_watts(result, report["simulation"]["pools"]),
    )


def _token_rate(table: RequestTable) -> float:
    tokens = int((table.prompt_tokens + table.output_tokens).sum())
    return tokens / max(float(table.arrival[-1] - table.arrival[0]), 1e-9)


def _watts(result: Run, pools: list[dict[str, Any]]) -> float:
    """Of all accelerators from the first arrival on; a report counts from second 0."""
    before = float(result.table.arrival[0])
    joules = 0.0
    for deployment, pool in zip(result.deployments, pools, strict=True):
        idle, energy = idle_watts(deployment.hardware), pool["energy"]
        if energy and idle is not None:
            joules += energy["active_joules"] + energy["idle_joules"] - idle * pool["accelerators"] * before
    return joules / max(seconds(result.duration) - before, 1e-9)


def _busy_watts(result: Run, pools: list[dict[str, Any]]) -> dict[str, float]:
    found = {}
    for pool in pools:
        working = float(np.mean(pool["busy_share"])) * pool["replicas"] * seconds(result.duration)
        if pool["energy"] and working:
            found[pool["name"]] = pool["energy"]["active_joules"] / working
    return found


def busiest(table: RequestTable, requests: int) -> RequestTable:
    """The `requests` consecutive requests that bring the most tokens a second."""
    if requests < 1 or requests >= len(table):
        return table
    tokens = np.concatenate([[0], np.cumsum(table.prompt_tokens + table.output_tokens)])
    amount = tokens[requests:] - tokens[:-requests]
    span = table.arrival[requests - 1 :] - table.arrival[: len(table) - requests + 1]
    first = int(np.argmax(amount / np.maximum(span, 1e-9)))
    return table.take(slice(first, first + requests))
