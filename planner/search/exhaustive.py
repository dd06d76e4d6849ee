"""Every fleet that the inventory allows, replayed in order of what it costs at least: the oracle for small spaces."""

from __future__ import annotations

from itertools import product
from math import inf, prod

from ...errors import InputError
from ..candidates import Candidate
from ..program.problem import Counts
from .search import Search, Tried

LARGEST = 5000  # fleets


def fleets(search: Search) -> list[Counts]:
    """All of them, by the least that they can cost, then by name. Raises `InputError` where there are too many."""
    market = search.market
    candidates = [known.candidate for known in market.known.values()]
    stock = [_within(candidates, gpu, stock.count) for gpu, stock in market.inventory.gpus.items()]
    number = prod(len(choices) for choices in stock)
    if number > LARGEST:
        many = f"{number:,} fleets of {len(candidates)} kinds of replicas"
        raise InputError("--exhaustive", many, f"at most {LARGEST:,}: fewer GPUs, sizes or settings in the inventory")
    budget = market.inventory.budget_per_hour or inf
    usd = {candidate.name: candidate.usd_per_hour for candidate in candidates}
    found: list[Counts] = [{name: n for part in parts for name, n in part.items()} for parts in product(*stock)]
    possible = [
        counts for counts in found
        if sum(usd[name] * n for name, n in counts.items()) <= budget and search.complete(counts)
    ]  # fmt: skip
    return sorted(possible, key=lambda counts: (search.least_price(counts), sorted(counts.items())))


def _within(candidates: list[Candidate], gpu: str, count: int) -> list[Counts]:
    """All numbers of the replicas on a GPU for which there are enough of them; none above what is refused anyway."""
    some = [(Counts(), count)]
    for candidate in (c for c in candidates if c.gpu == gpu):
        some = [
            ({**counts, **({candidate.name: n} if n else {})}, left - n * candidate.gpus)
            for counts, left in some[: LARGEST + 1]
            for n in range(left // candidate.gpus + 1)
        ]
    return [counts for counts, _ in some]


def cheapest(search: Search) -> Tried | None:
    """The best fleet that meets the SLO: where power counts, what one costs is known when it was replayed."""
    best: Tried | None = None
    for counts in fleets(search):
        if best and search.least_price(counts) >= best.price:
            break
        search.market.smoothen(counts)  # the router's weights come from there
        tried = search.attempt(counts)
        if tried.verdict.met and (best is None or tried.price < best.price):
            best = tried
    return best
