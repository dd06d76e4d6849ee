"""What a trace asks of a fleet, as load that must be done within some seconds: the scenarios of the program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf

import numpy as np

from ...traces.columns import Floats
from ..measure.targets import Targets
from ..measure.workload import Workload
from .due import Times, stretches, times, without_most
from .problem import Scenario

_ENDS = np.linspace(0.5, 1.0, 26)  # quantiles of the times by which requests must be done


@dataclass(frozen=True)
class Terms:
    """What the work of requests is in proportion to, each as a multiple of its mean over the trace.

    prompt, answer, reading : of computed prompt tokens, of output tokens, and of contexts that are read for these.
    """

    prompt: Floats
    answer: Floats
    reading: Floats

    @classmethod
    def of(cls, workload: Workload, attention: float) -> Terms:
        """attention : work of a prompt token for each token of its context, as a share of its other work, at most."""
        table, computed = workload.table, workload.computed.astype(float)
        context = table.prompt_tokens - computed / 2  # of a computed token, on average
        output = table.output_tokens.astype(float)
        linear, square = computed / computed.sum(), computed * context / max((computed * context).sum(), 1.0)
        part = attention * float((computed * context).sum() / computed.sum())
        return cls((linear + part * square) / (1 + part), output, output * (table.prompt_tokens + output / 2))


def scenarios(workload: Workload, targets: Targets, attention: float) -> tuple[Scenario, ...]:
    """The whole trace, then stretches in which first tokens are due, and in which all of their requests are.

    Stretches count as many requests of average work as they have of the term of which they have least.
    """
    table, terms = workload.table, Terms.of(workload, attention)
    found = [
        Scenario(
            "requests of the whole trace",
            _end(workload, targets),
            _count(workload),
            targets.allowed() * targets.requests,
        )
    ]
    for limit, rare in targets.strict("ttft"):
        when = times(table, np.full(len(table), limit))
        found.append(_due("first tokens", workload, when, [terms.prompt], ceil(rare * len(table)), True))
    longest = _longest(workload, targets)
    if np.isfinite(longest).all():
        when, most = times(table, longest), ceil(targets.allowed() * len(table))
        found.append(_due("requests", workload, when, [terms.prompt, terms.answer, terms.reading], most, False))
    return tuple(found)


def needed(workload: Workload, targets: Targets, attention: float) -> float:
    """The share of the mean rate at which requests of average work must keep the SLO, up to the time by which it says
    most: the last ones may end after the trace."""
    longest = _longest(workload, targets)
    if not np.isfinite(longest).all():
        return 1 - targets.allowed()
    when, most = times(workload.table, longest), ceil(targets.allowed() * len(longest))
    terms = Terms.of(workload, attention)
    shares = [t / t.sum() for t in (np.ones(len(longest)), terms.prompt, terms.answer, terms.reading)]
    span, most_needed = max(workload.span, 1e-9), 0.0
    for end in np.quantile(when.latest, _ENDS, method="inverted_cdf").tolist():
        done = min(without_most(share, when.latest <= end, when.group, most) for share in shares)
        most_needed = max(most_needed, done * span / max(end - workload.table.arrival[0], span * 1e-3))
    return min(most_needed, 1.0)


def _longest(workload: Workload, targets: Targets) -> Floats:
    """Seconds that each request may take."""
    ttft, tpot, e2el = (targets.limit(metric) for metric in ("ttft", "tpot", "e2el"))
    return np.minimum(e2el, ttft + tpot * np.maximum(workload.table.output_tokens - 1.0, 1e-9))


def _end(workload: Workload, targets: Targets) -> float:
    """Seconds from the first arrival to the last moment at which a request may be done."""
    when = times(workload.table, _longest(workload, targets))
    end = float(when.latest.max() - workload.table.arrival[0])
    return end if end < inf else workload.span


def _count(workload: Workload) -> tuple[float, ...]:
    counts: list[float] = np.bincount(workload.bucket, minlength=len(workload.shares)).astype(float).tolist()
    return tuple(counts)


def _due(
    what: str, workload: Workload, when: Times, terms: Sequence[Floats], most: int, prompts: bool
) -> Scenario:  # fmt: skip
    usual = sum(term / term.mean() for term in terms) / len(terms)
    chosen = stretches(when, np.asarray(usual), most)
    arrivals = []
    for bucket in range(len(workload.shares)):
        mine = workload.bucket == bucket
        least = (without_most(t, chosen.rows & mine, when.group, most) / float(t[mine].mean()) for t in terms)
        arrivals.append(min(least))
    one = chosen.number == 1
    where = (
        f"one stretch of {chosen.seconds:.1f} s" if one else f"{chosen.number} stretches, {chosen.seconds:.1f} s in all"
    )
    name = f"{what} due in {where}"
    return Scenario(name, chosen.seconds, tuple(arrivals), prompts=prompts)
