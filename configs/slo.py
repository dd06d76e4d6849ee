"""Service-level objectives: limits that make a request good, and objectives over all requests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any

from ..errors import InputError, unknown_name
from .catalog import find
from .strict import build, read_mapping

METRICS = ("ttft", "tpot", "itl", "e2el")  # of latency, under vLLM's names; seconds
STATISTICS = ("mean", "median", "std", "p50", "p90", "p95", "p99")
TOTALS = ("goodput", "request_throughput", "output_throughput", "total_token_throughput", "cost_per_1m_output_tokens")

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_DURATION = re.compile(r"\s*([0-9.eE+-]+)\s*(us|ms|s|min|h)\s*")
_OBJECTIVE = re.compile(r"\s*(\w+)(?:\s+(\w+))?\s*(<=|>=|<|>)\s*(.+?)\s*")


def duration(text: object, key: str) -> float:
    """Seconds from `800ms`, `1.5s`, ...; a bare number has no unit and is refused."""
    match = _DURATION.fullmatch(str(text))
    try:
        value = float(match.group(1)) * _SECONDS[match.group(2)] if match else inf
    except ValueError:
        value = inf
    if not 0 < value < inf:
        raise InputError(key, repr(text), "a duration with its unit, such as 800ms or 1.5s")
    return value


@dataclass(frozen=True)
class Objective:
    """One line of an SLO over all requests: `ttft p99 <= 800ms`, `goodput >= 0.95`.

    metric : one of `METRICS` with a statistic, or of `TOTALS` without. limit : seconds, or the total's own unit;
    goodput is a share of the requests offered.
    """

    text: str
    metric: str
    statistic: str
    operator: str
    limit: float

    @classmethod
    def parse(cls, text: str, key: str) -> Objective:
        """From its line."""
        match = _OBJECTIVE.fullmatch(text)
        if not match:
            raise InputError(key, repr(text), "metric, statistic, operator and limit, such as `ttft p99 <= 800ms`")
        metric, statistic, operator, limit = match.groups()
        if metric not in METRICS + TOTALS:
            raise unknown_name(key, "metric", metric, METRICS + TOTALS)
        if metric in METRICS:
            if statistic is None:
                raise InputError(key, f"{metric} without a statistic", f"one of {', '.join(STATISTICS)}")
            if statistic not in STATISTICS:
                raise unknown_name(key, "statistic", statistic, STATISTICS)
            return cls(text, metric, statistic, operator, duration(limit, key))
        if statistic:
            raise InputError(key, f"{metric} {statistic}", f"{metric} without a statistic")
        limit = limit.removesuffix("of offered").rstrip() if metric == "goodput" else limit
        with suppress(ValueError):
            value = float(limit.removesuffix("%")) / (100 if limit.endswith("%") else 1)
            if metric == "goodput" and not 0 <= value <= 1:
                raise InputError(key, repr(limit), "a share of the requests, such as 0.99 or 99%")
            if isfinite(value):
                return cls(text, metric, "", operator, value)
        raise InputError(key, repr(limit), "a number")

    def met(self, value: float) -> bool:
        """Whether `value` keeps the limit; NaN does not."""
        return {
            "<=": value <= self.limit, "<": value < self.limit, ">=": value >= self.limit, ">": value > self.limit
        }[self.operator]  # fmt: skip


@dataclass(frozen=True)
class _Text:
    """The file as it is written."""

    goodput: dict[str, Any] = field(default_factory=dict)
    objectives: tuple[str, ...] = ()
    classes: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class SLO:
    """limits : seconds by metric (ttft, tpot, e2el); a request that keeps all of them is good, as vLLM's `--goodput`.

    classes : other limits for requests of some request class. objectives : over all requests.
    """

    limits: dict[str, float]
    classes: dict[str, dict[str, float]]
    objectives: tuple[Objective, ...]


def load_slo(name: str) -> SLO:
    """An SLO file by path, or by the name of one that comes with the package."""
    path = find("slos", name, "slo")
    data = read_mapping(path)
    try:
        return slo_from(data)
    except InputError as error:
        raise error.at(f"{path}:") from None


def slo_from(data: Mapping[str, Any]) -> SLO:
    """An SLO from the mapping of its YAML file."""
    text = build(_Text, data)
    return SLO(
        _limits(text.goodput, "goodput"),
        {name: _limits(limits, f"classes.{name}") for name, limits in text.classes.items()},
        tuple(Objective.parse(line, f"objectives[{i}]") for i, line in enumerate(text.objectives)),
    )


def _limits(texts: dict[str, Any], key: str) -> dict[str, float]:
    for metric in texts:
        if metric not in METRICS or metric == "itl":
            raise unknown_name(f"{key}.{metric}", "metric of a request", metric, [m for m in METRICS if m != "itl"])
    return {metric: duration(text, f"{key}.{metric}") for metric, text in texts.items()}
