"""What an SLO asks of a plan: which objectives a part of the fleet must keep, and how many requests can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, inf
from typing import Any

from ...configs.slo import METRICS, SLO, Objective
from ...errors import InputError, unknown_name
from ...sim.report.metrics import Finished
from ...traces.table import RequestTable

_BEYOND = 5  # requests that must lie beyond a percentile before it says anything
_PHASES = {"prefill": ("ttft",), "decode": ("tpot", "itl")}  # what a role can be judged by, without the other one
_ROLES_OWN = [metric for metrics in _PHASES.values() for metric in metrics]


@dataclass(frozen=True)
class Targets:
    """slo : all of it. requests : the trace's."""

    slo: SLO
    requests: int

    @classmethod
    def of(cls, slo: SLO, requests: int) -> Targets:
        """Checked. Raises `InputError` without objectives, and for a trace too short for a percentile."""
        if not any(_per_request(o) for o in slo.objectives):
            found = f"{len(slo.objectives)} objectives, none of them on the latency of requests"
            raise InputError("objectives", found, "at least one, such as `ttft p99 <= 2s` or `goodput >= 99%`")
        if any(o.metric == "goodput" for o in slo.objectives) and not (slo.limits or any(slo.classes.values())):
            expected = "limits such as `goodput: {ttft: 2s, tpot: 50ms}`: without any, every request is good"
            raise InputError("goodput", "no limits, though an objective asks for goodput", expected)
        for objective in slo.objectives:
            rare = 1 - _share(objective)
            if 0 < rare < 1 and requests * rare < _BEYOND:
                found = f"`{objective.text}` on a trace of {requests} requests: {requests * rare:.3g} lie beyond it"
                raise InputError("objectives", found, f"{ceil(_BEYOND / rare - 1e-9)} requests, so that {_BEYOND} do")
        return cls(slo, requests)

    def check_classes(self, table: RequestTable) -> None:
        """Raises `InputError` where the SLO names a class of requests that the trace does not have."""
        names = table.request_class.names if table.request_class else ()
        for name in self.slo.classes:
            if name not in names:
                raise unknown_name(f"classes.{name}", "request class of this trace", name, names)

    def local(self, requests: int) -> Targets:
        """The objectives on latency and goodput, for a part of the trace. Parts that each keep them do so together."""
        return Targets(replace(self.slo, objectives=tuple(o for o in self.slo.objectives if _per_request(o))), requests)

    def phase(self, role: str, requests: int) -> Targets:
        """Those of `local` that a replica of this role must keep; whoever breaks them breaks the SLO in any fleet."""
        local = self.local(requests)
        if role not in _PHASES:
            return local

        def kept(limits: dict[str, float]) -> dict[str, float]:
            return {metric: limit for metric, limit in limits.items() if metric in _PHASES[role]}

        limits = kept(local.slo.limits)
        objectives = tuple(
            o for o in local.slo.objectives if o.metric in _PHASES[role] or (o.metric == "goodput" and limits)
        )
        classes = {name: kept(own) for name, own in local.slo.classes.items()}
        return replace(local, slo=SLO(limits, classes, objectives))

    def scaled(self, factor: float) -> Targets:
        """All limits of latency `factor` times as long."""

        def longer(limits: dict[str, float]) -> dict[str, float]:
            return {metric: limit * factor for metric, limit in limits.items()}

        objectives = tuple(
            replace(o, limit=o.limit * factor) if o.metric in METRICS else o for o in self.slo.objectives
        )
        classes = {name: longer(limits) for name, limits in self.slo.classes.items()}
        return replace(self, slo=SLO(longer(self.slo.limits), classes, objectives))

    def limit(self, metric: str) -> float:
        """The loosest limit on `metric` that nearly all requests must keep, in seconds; inf without one."""
        limits = [o.limit for o in self.slo.objectives if o.metric == metric and _share(o) >= 0.9]
        if any(o.metric == "goodput" for o in self.slo.objectives) and metric in self.slo.limits:
            limits.append(self.slo.limits[metric])
        return min(limits, default=inf)

    def strict(self, metric: str) -> list[tuple[float, float]]:
        """Limits on `metric` in seconds, each with the share of requests that may be beyond it."""
        limits = [(o.limit, rare(o)) for o in self.slo.objectives if o.metric == metric and rare(o)]
        if metric in self.slo.limits and not self.slo.classes:
            limits += [(self.slo.limits[metric], rare(o)) for o in self.slo.objectives if o.metric == "goodput"]
        return limits

    def allowed(self) -> float:
        """The share of requests that may miss some limit; one request may not miss for two objectives."""
        return min(1.0, sum(1 - _share(o) for o in self.slo.objectives if 0 < _share(o) < 1))

    def over(self, requests: Finished, bad: int, among: int) -> list[float]:
        """By objective, the share of all requests that are over its limit; 0 for objectives that are not about a share.

        requests, bad : those that finished, and how many do not count for `goodput`. among : the requests of the run;
        if it was stopped, the rest of them is taken to fare likewise, and whoever was not in it to keep the limits.
        """
        shares = []
        seen = max(len(requests), 1) * self.requests / among
        for objective in self.slo.objectives:
            if objective.metric == "goodput":
                shares.append(bad / seen)
            elif _share(objective) and objective.metric in ("ttft", "tpot", "e2el"):
                shares.append(float((getattr(requests, objective.metric) > objective.limit).sum() / seen))
            else:
                shares.append(0.0)
        return shares

    def beyond(self, over: Sequence[float]) -> float:
        """Requests over a limit, as a multiple of those that may be, for the objective where that is worst."""
        rare = [1 - _share(o) if 0 < _share(o) < 1 else 1.0 for o in self.slo.objectives]
        return max((share / r for share, r in zip(over, rare, strict=True)), default=0.0)


def _per_request(objective: Objective) -> bool:
    return objective.metric in (*METRICS, "goodput")


def _share(objective: Objective) -> float:
    """The share of requests that must keep the limit; 0 where the objective is no such share."""
    if objective.metric == "goodput":
        return objective.limit
    return {"median": 0.5, "p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}.get(objective.statistic, 0.0)


def rare(objective: Objective) -> float:
    """The share of requests that may be beyond its limit; 0 where it is not about a share."""
    share = _share(objective)
    return 1 - share if 0 < share < 1 else 0.0


def blame(objective: dict[str, Any], limits: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """An objective's verdict; where goodput was missed, with the metric whose limit most requests were over.

    limits : of a request, by metric, as a report has them.
    """
    missed = {metric: limit["requests"] for metric, limit in limits.items() if limit["requests"]}
    if objective["met"] or not str(objective["objective"]).startswith("goodput") or not missed:
        return objective
    return {**objective, "dominating": max(missed, key=lambda metric: missed[metric])}


def misses_phase(objectives: Sequence[dict[str, Any]], role: str) -> bool:
    """Whether an objective of a verdict was missed that this role is judged by; goodput by the limit that broke it."""
    broken = [(o["objective"].split()[0], o.get("dominating")) for o in objectives if not o["met"]]
    metrics = [cause if metric == "goodput" and cause in _ROLES_OWN else metric for metric, cause in broken]
    return any(metric in (*_PHASES[role], "goodput") for metric in metrics)


def describe(verdicts: Sequence[dict[str, object]]) -> str:
    """The objectives of a verdict that were missed, with their values."""
    missed = []
    for verdict in verdicts:
        if not verdict["met"]:
            value = verdict["value"]
            shown = "nothing to measure" if not isinstance(value, float) else f"{value:.4g}"
            why = f", mostly {verdict['dominating']}" if verdict.get("dominating") else ""
            missed.append(f"{verdict['objective']} ({shown}{why})")
    return "; ".join(missed)
