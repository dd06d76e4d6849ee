"""Pairs of prefill and decode replicas whose links are too slow for an SLO, even without any other request.

The first token comes from the prefill replica, so the time that the KV cache takes is part of the time per output
token. With the fastest decode that was measured, a request of n tokens has a TPOT of at least that plus transfer
seconds / (n - 1). Between zones those seconds count the link's latency, twice where the decode replica pulls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from ..measure.points import Capacity, Isolated
from .problem import Offer, Problem, bandwidth, pairs_of, zones_of

Closed = frozenset[tuple[str, str, int]]  # prefill offer, decode offer, bucket


def closed_pairs(problem: Problem, capacity: Capacity, isolated: Mapping[str, Sequence[Isolated]]) -> Closed:
    """Pairs of offers, and a bucket that they cannot serve together.

    Transfers that begin before the prompt is computed hide behind it, so then no pair is ruled out.
    """
    if capacity.inventory.disaggregation.get("mode", "serial") != "serial":
        return frozenset()
    offers, workload = problem.offers, capacity.workload
    limits = capacity.targets.strict("tpot")
    links = capacity.inventory.zone_pairs()
    messages = 1 if capacity.inventory.disaggregation.get("direction") == "push" else 2  # a pull asks first
    rates = {(p, d): bandwidth(problem, offers[p], offers[d]) for p, d in pairs_of(problem)}
    closed = set()
    for bucket, mean in enumerate(workload.mean_computed):
        many = (workload.bucket == bucket) & (workload.table.output_tokens > 1)
        share = workload.computed[many] / mean / (workload.table.output_tokens[many] - 1)
        known: dict[tuple[float, float, float], bool] = {}
        for (p, d), rate in rates.items():
            link = links.get(zones_of(problem, offers[p], offers[d]))
            wait = messages * link.latency if link else 0.0
            case = offers[p].kv_bytes[bucket] / rate, isolated[offers[d].name][bucket].tpot, wait
            if case not in known:  # many pairs have the same links
                least = case[1] + case[0] * share + wait / (workload.table.output_tokens[many] - 1)
                known[case] = any((least > limit).sum() > rare * len(workload.table) for limit, rare in limits)
            if known[case]:
                closed.add((offers[p].name, offers[d].name, bucket))
    return frozenset(closed)


def without(problem: Problem, closed: Closed) -> Problem:
    """`problem` where nobody is asked for what a link is too slow for."""
    if not closed:
        return problem
    able = {
        (problem.offers[i].name, bucket)
        for p, d in pairs_of(problem)
        for bucket in range(len(problem.rates))
        if (problem.offers[p].name, problem.offers[d].name, bucket) not in closed
        for i in (p, d)
    }
    return replace(
        problem, offers=tuple(replace(o, rates=tuple(_rates(o, able))) for o in problem.offers), closed=closed
    )


def _rates(offer: Offer, able: set[tuple[str, int]]) -> Iterator[float]:
    for bucket, rate in enumerate(offer.rates):
        yield rate if offer.role == "mixed" or (offer.name, bucket) in able else 0.0
