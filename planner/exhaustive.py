"""Every fleet that the inventory allows, replayed in order of price: the oracle for small spaces."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import inf, prod

from ..errors import InputError
from .problem import Counts
from .search import Search, Tried

LARGEST = 5000  # fleets


def fleets(search: Search) -> list[Counts]:
    """All of them, cheapest first, then by name. Raises `InputError` where there are too many."""
    market = search.market
    candidates = [known.candidate for known in market.known.values()]
    number = prod(c.most + 1 for c in candidates)
    if number > LARGEST:
        found = f"{number:,} fleets of {len(candidates)} kinds of replicas"
        raise InputError("--exhaustive", found, f"at most {LARGEST:,}: fewer GPUs, sizes or settings in the inventory")
    stock = {gpu: stock.count for gpu, stock in market.inventory.gpus.items()}

    def possible() -> Iterator[tuple[float, Counts]]:
        for numbers in product(*(range(c.most + 1) for c in candidates)):
            members = [(c, n) for c, n in zip(candidates, numbers, strict=True) if n]
            used = {gpu: sum(c.gpus * n for c, n in members if c.gpu == gpu) for gpu in stock}
            usd = sum(c.usd_per_hour * n for c, n in members)
            counts = {c.name: n for c, n in members}
            affordable = usd <= (market.inventory.budget_per_hour or inf)
            if affordable and search.complete(counts) and all(used[gpu] <= stock[gpu] for gpu in stock):
                yield usd, counts

    return [counts for _, counts in sorted(possible(), key=lambda pair: (pair[0], sorted(pair[1].items())))]


def cheapest(search: Search) -> Tried | None:
    """The first fleet, in order of price, that meets the SLO."""
    for counts in fleets(search):
        search.market.smoothen(counts)  # the router's weights come from there
        tried = search.attempt(counts)
        if tried.verdict.met:
            return tried
    return None
