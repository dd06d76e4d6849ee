"""Pairs of prefill and decode replicas whose links are too slow for an SLO, even without any other request.

The first token comes from the prefill replica, so the time that the KV cache takes is part of the time per output
token. With the fastest decode that was measured, a request of n tokens has a TPOT of at least that plus transfer
seconds / (n - 1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from .points import Capacity, Isolated
from .problem import Offer, Problem, bandwidth, pairs_of


def with_transfers(problem: Problem, capacity: Capacity, isolated: Mapping[str, Sequence[Isolated]]) -> Problem:
    """`problem` without the pairs that cannot serve a bucket, nor the offers that nobody is left for.

    Transfers that begin before the prompt is computed hide behind it, so then no pair is ruled out.
    """
    offers = problem.offers
    if capacity.inventory.disaggregation.get("mode", "serial") != "serial" or all(o.role == "mixed" for o in offers):
        return problem
    closed = set()
    for p, d in pairs_of(problem):
        for bucket, found in enumerate(isolated[offers[d].name]):
            if _too_slow(capacity, offers[p], bandwidth(problem, offers[p], offers[d]), bucket, found.tpot):
                closed.add((offers[p].name, offers[d].name, bucket))
    able = {
        (offers[i].name, bucket)
        for p, d in pairs_of(problem)
        for bucket in range(len(problem.rates))
        if (offers[p].name, offers[d].name, bucket) not in closed
        for i in (p, d)
    }
    kept = tuple(replace(o, rates=tuple(_rates(o, able))) for o in offers)
    return replace(problem, offers=kept, closed=frozenset(closed))


def _rates(offer: Offer, able: set[tuple[str, int]]) -> Iterator[float]:
    for bucket, rate in enumerate(offer.rates):
        yield rate if offer.role == "mixed" or (offer.name, bucket) in able else 0.0


def _too_slow(capacity: Capacity, source: Offer, rate: float, bucket: int, tpot: float) -> bool:
    """Whether more requests of a bucket miss a limit on TPOT than may miss it in the whole trace."""
    table, mine = capacity.workload.table, capacity.workload.bucket == bucket
    many = mine & (table.output_tokens > 1)
    if not many.any():
        return False
    mean = capacity.workload.mean_prompts[bucket]
    seconds = source.kv_bytes[bucket] / mean * table.prompt_tokens[many] / rate
    least = tpot + seconds / (table.output_tokens[many] - 1)
    return any(
        float((least > limit).sum()) > allowed * len(table) for limit, allowed in capacity.targets.strict("tpot")
    )
