"""What a plan does when the load, or the time that work takes, is more than was thought."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...configs.plan import Plan
from ...errors import InputError
from ...traces.table import RequestTable
from ...traces.transform import scale_rate
from ..measure.judge import Judge, Verdict
from ..measure.targets import Targets

_STEPS = 5


@dataclass(frozen=True)
class Strained:
    """Verdicts at `factor` times the load, and with work that takes `factor` times as long."""

    factor: float
    load: Verdict
    service: Verdict


def parse_range(text: str) -> list[float]:
    """`1.0:1.5` as evenly spaced factors."""
    low, _, high = text.partition(":")
    try:
        first, last = float(low), float(high)
    except ValueError:
        first, last = 0.0, 0.0
    if not 0 < first <= last <= 100:
        raise InputError("--stress", repr(text), "LOW:HIGH, such as 1.0:1.5, with 0 < LOW <= HIGH <= 100")
    if first == last:
        return [first]
    return [round(first + (last - first) * i / _STEPS, 6) for i in range(_STEPS + 1)]


def curve(plan: Plan, table: RequestTable, targets: Targets, judge: Judge, factors: Sequence[float]) -> list[Strained]:
    """Replays under stress.

    Work that takes f times as long is simulated by its mirror image: arrivals f times as fast and limits of 1 / f,
    in a time that runs f times as fast. Host overheads and link latencies stretch along.
    """
    strained = []
    for factor in factors:
        faster = scale_rate(table, factor) if factor != 1 else table
        load = judge.sample(plan, faster, targets)
        service = judge.sample(plan, faster, targets.scaled(1 / factor)) if factor != 1 else load
        strained.append(Strained(factor, load, service))
    return strained
