"""What is said of an objective: pure rules from values, their uncertainty and a baseline to a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from ...configs.slo import Objective
from ...traces.streams import Stream
from .cases import Slack

_RESAMPLES = 2000
_LEVEL = (2.5, 97.5)  # percentiles of the bootstrap: an interval of 95 %


class Verdict(IntEnum):
    """In order of what counts most when several come together."""

    PASS = 0
    UNSURE = 1  # the prediction is not good enough to tell
    INVALID = 2  # nothing was, or could be, compared
    REGRESS = 3  # within the limit, and worse than the baseline beyond the slack
    FAIL = 4  # beyond the limit

    @property
    def word(self) -> str:
        """As it is written."""
        return self.name.lower()


@dataclass(frozen=True)
class Row:
    """One objective of a case and what became of it.

    value, limit, baseline : seconds, or the figure's own unit; None where there is none. low, high : what the value
    may be, over seeds and calibrated error. reason : in words.
    """

    case: str
    objective: str
    verdict: Verdict
    value: float | None = None
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    baseline: float | None = None
    reason: str = ""
    latency: bool = False
    operator: str = ""

    @property
    def headroom(self) -> float | None:
        """Share of the limit that is left; negative beyond it."""
        if self.value is None or not self.limit:
            return None
        left = self.limit - self.value if self.operator.startswith("<") else self.value - self.limit
        return left / abs(self.limit)

    @property
    def change(self) -> float | None:
        """Value / baseline - 1."""
        return None if self.value is None or not self.baseline else self.value / self.baseline - 1

    def as_dict(self) -> dict[str, Any]:
        """For `slo.json`."""
        return {
            "case": self.case, "objective": self.objective, "verdict": self.verdict.word, "value": self.value,
            "low": self.low, "high": self.high, "limit": self.limit, "headroom": self.headroom,
            "baseline": self.baseline, "change": self.change, "reason": self.reason,
        }  # fmt: skip


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Of the mean over seeds: the percentile bootstrap's (Efron and Tibshirani 1993); the value itself if alone."""
    found = np.asarray(values, float)
    if len(found) == 1:
        return float(found[0]), float(found[0])
    draws = Stream(0, "gate bootstrap").integers(_RESAMPLES * len(found), len(found)).reshape(_RESAMPLES, -1)
    low, high = np.percentile(found[draws].mean(axis=1), _LEVEL)
    return float(low), float(high)


def bounds(values: Sequence[float], error: float) -> tuple[float, float]:
    """What a real system may show: the interval over seeds, off by the calibrated error (simulated / recorded - 1)."""
    low, high = interval(values)
    return low / (1 + error), high / (1 - error)


def against_limit(objective: Objective, low: float, high: float) -> Verdict:
    """`unsure` where the limit lies between `low` and `high`."""
    met = objective.met(low), objective.met(high)
    return Verdict.PASS if all(met) else Verdict.UNSURE if any(met) else Verdict.FAIL


def against_baseline(objective: Objective, values: Sequence[float], before: Sequence[float], slack: Slack) -> Verdict:
    """`regress` where the value is worse beyond both slacks; `unsure` where chance could explain that.

    values, before : by seed, the same seeds in the same order, so that differences are paired.
    """
    sign = 1.0 if objective.operator.startswith("<") else -1.0
    worse = sign * (np.asarray(values, float) - np.asarray(before, float))
    allowed = max(slack.relative * abs(float(np.mean(before))), slack.absolute)
    if float(worse.mean()) <= allowed:
        return Verdict.PASS
    low, _ = interval(worse.tolist())
    return Verdict.REGRESS if low > allowed else Verdict.UNSURE
