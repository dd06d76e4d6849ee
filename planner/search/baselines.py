"""What simpler ways of sizing would have rented: closed forms, rate matching, and the best fleet of one type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, inf

from ..measure.judge import Judge, Verdict
from ..measure.parallel import side_by_side
from ..program.problem import Counts
from .market import Known, Market
from .planfile import plan_of
from .search import Search

_MATCHED = {"prefill": 0.90, "decode": 0.92}  # of their rates: what aiconfigurator 0.12 counts on when it pairs them
_MORE = 1.1  # times the load to size for, when a fleet has missed
_MOST = 4.0  # times the load, after which a rule is given up


@dataclass(frozen=True)
class Baseline:
    """counts, usd_per_hour : as the rule has it. corrected : the same rule with more until the SLO is met, or None."""

    rule: str
    counts: Counts
    usd_per_hour: float
    verdict: Verdict
    corrected: Counts | None = None
    corrected_usd_per_hour: float | None = None


def simpler_rules(search: Search) -> list[Baseline]:
    """What each of them finds, from what `search` knows; side by side."""
    judge, found = search.market.capacity.judge, []
    for baseline, worker in side_by_side(_apply, [(rule, search.beside()) for rule in RULES]):
        judge.merge(worker)
        found += [baseline] if baseline else []
    return found


def _apply(job: tuple[Callable[[Search], Baseline | None], Search]) -> tuple[Baseline | None, Judge]:
    rule, search = job
    return rule(search), search.market.capacity.judge


def homogeneous(search: Search) -> Baseline | None:
    """The cheapest fleet of one type that meets the SLO; numbers that would be dearer are not replayed."""
    best: Baseline | None = None
    for known in sorted(_of_role(search.market, "mixed"), key=lambda known: _usd(known, known.least)):
        name, usd = known.candidate.name, known.candidate.usd_per_hour
        affordable = ceil(best.usd_per_hour / usd - 1e-9) - 1 if best else inf
        search.market.anchor(name, affordable)
        if known.needed and known.needed <= affordable:
            verdict = known.alone[known.needed]
            best = Baseline("best of one type", {name: known.needed}, usd * known.needed, verdict)
    return best


def closed_form(search: Search) -> Baseline | None:
    """Mean rate over the saturated rate of a replica, of the type where that is cheapest: no SLO, no bursts."""
    return _sized("mean rate / saturated rate", search, {"mixed": 1.0}, lambda known: known.top)


def rate_matched(search: Search) -> Baseline | None:
    """Mean rate over the rate that one replica carries within the SLO, scaled linearly: no bursts."""
    return _sized("mean rate / rate within the SLO", search, {"mixed": 1.0}, _within_slo(search.market))


def matched_pair(search: Search) -> Baseline | None:
    """The same for prefill and decode replicas, each for its own phase, with a margin on both."""
    return _sized("prefill and decode matched by rate", search, _MATCHED, _within_slo(search.market))


def _within_slo(market: Market) -> Callable[[Known], float]:
    def rate(known: Known) -> float:
        market.smoothen([known.candidate.name])
        return known.smooth.low

    return rate


def _sized(rule: str, search: Search, margins: dict[str, float], rate: Callable[[Known], float]) -> Baseline | None:
    """The cheapest type of each role for the mean rate, then for more of it until the SLO is met."""
    first: Baseline | None = None
    last, more = Counts(), 1.0
    while more < _MOST:
        fleet: Counts = {}
        for role, margin in margins.items():
            fleet |= _cheapest(search.market, role, more / margin, rate)
        if len(fleet) < len(margins) or not (_in_stock(search.market, fleet) and search.complete(fleet)):
            break
        if fleet != last:
            found = _replayed(rule, search, fleet)
            first = first or found
            if found.verdict.met:
                return Baseline(rule, first.counts, first.usd_per_hour, first.verdict, fleet, found.usd_per_hour)
        last, more = fleet, more * _MORE
    return first


def _cheapest(market: Market, role: str, load: float, rate: Callable[[Known], float]) -> Counts:
    """Replicas of the type that carries so many times the mean rate for least; what cannot be that is not measured."""
    best, fleet = inf, Counts()

    def replicas(known: Known, carried: float) -> int | None:
        n = ceil(load * market.workload.rate / carried - 1e-9) if carried else 0
        return n if 0 < n <= known.candidate.most else None

    for known in sorted(_of_role(market, role), key=lambda known: _usd(known, replicas(known, known.top))):
        if _usd(known, replicas(known, known.top)) >= best:
            break
        n = replicas(known, rate(known))
        if _usd(known, n) < best:
            best, fleet = _usd(known, n), {known.candidate.name: n or 0}
    return fleet


def _in_stock(market: Market, fleet: Counts) -> bool:
    members = [(market.known[name].candidate, n) for name, n in fleet.items()]
    used = {gpu: sum(c.gpus * n for c, n in members if c.gpu == gpu) for gpu in market.inventory.gpus}
    return all(used[gpu] <= stock.count for gpu, stock in market.inventory.gpus.items())


def _replayed(rule: str, search: Search, counts: Counts) -> Baseline:
    capacity = search.market.capacity
    usd = sum(search.market.known[name].candidate.usd_per_hour * n for name, n in counts.items())
    return Baseline(rule, counts, usd, capacity.replay(plan_of(search.values(counts))))


def _of_role(market: Market, role: str) -> list[Known]:
    return [known for known in market.known.values() if known.candidate.role == role]


def _usd(known: Known, replicas: int | None) -> float:
    return known.candidate.usd_per_hour * replicas if replicas else inf


RULES = (homogeneous, closed_form, rate_matched, matched_pair)
