"""What simpler ways of sizing would have rented: closed forms, rate matching, and the best fleet of one type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, inf

from .judge import Verdict
from .market import Known, Market


@dataclass(frozen=True)
class Baseline:
    """replicas, usd_per_hour : as the rule has it. corrected : replicas that do meet the SLO, None if none."""

    rule: str
    name: str
    replicas: int
    usd_per_hour: float
    verdict: Verdict
    corrected: int | None = None
    corrected_usd_per_hour: float | None = None


def homogeneous(market: Market) -> Baseline | None:
    """The cheapest fleet of one type that meets the SLO; types whose bound is dearer are not replayed."""
    best: Known | None = None
    for known in sorted(_whole(market), key=_least_usd):
        if best and _least_usd(known) >= _usd(best, best.needed):
            continue
        market.smoothen([known.candidate.name])
        if best and _least_usd(known) >= _usd(best, best.needed):
            continue
        market.anchor(known.candidate.name)
        if known.needed and (best is None or _usd(known, known.needed) < _usd(best, best.needed)):
            best = known
    if best is None or best.needed is None:
        return None
    usd = _usd(best, best.needed)
    return Baseline("best of one type", best.candidate.name, best.needed, usd, best.alone[best.needed])


def closed_form(market: Market) -> Baseline | None:
    """Mean rate over the saturated rate of a replica, of the type where that is cheapest: no SLO, no bursts."""
    return _linear("mean rate / saturated rate", market, lambda known: market.capacity.saturated(known.candidate))


def rate_matched(market: Market) -> Baseline | None:
    """Mean rate over the rate that one replica carries within the SLO, scaled linearly: no bursts."""

    def rate(known: Known) -> float:
        market.smoothen([known.candidate.name])
        return known.smooth.low if known.smooth else 0.0

    return _linear("mean rate / rate within the SLO", market, rate)


def _linear(rule: str, market: Market, rate: Callable[[Known], float]) -> Baseline | None:
    choices = []
    for known in _whole(market):
        carried = rate(known)
        n = ceil(market.workload.rate / carried - 1e-9) if carried else 0
        if 0 < n <= known.candidate.most:
            choices.append((_usd(known, n), known.candidate.name, n))
    if not choices:
        return None
    usd, name, n = min(choices)
    known = market.known[name]
    verdict = known.alone.get(n) or market.replay(known, n)
    enough = n
    while not known.alone.setdefault(enough, verdict).met and enough < known.candidate.most:
        enough += 1
        verdict = known.alone.get(enough) or market.replay(known, enough)
    met = known.alone[enough].met
    return Baseline(
        rule, name, n, usd, known.alone[n], enough if met else None, _usd(known, enough) if met else None
    )  # fmt: skip


def _whole(market: Market) -> list[Known]:
    """The types that serve a request alone: simple rules know no roles."""
    return [known for known in market.known.values() if known.candidate.role == "mixed"]


def _usd(known: Known, replicas: int | None) -> float:
    return known.candidate.usd_per_hour * replicas if replicas else inf


def _least_usd(known: Known) -> float:
    return _usd(known, known.least)
