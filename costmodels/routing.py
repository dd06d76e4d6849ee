"""Which experts tokens visit, and what that makes of the busiest rank.

A token visits `top_k` different experts. With popularities p the chance that it visits expert e is taken as
l p_e / (1 + l p_e), l such that they sum to top_k (conditional Poisson sampling): none exceeds 1, and equal
popularities give top_k / experts.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from math import ceil

from ..configs.model import MoE
from .operators import Collective, ExpertFetch, Experts, Gemm, Move, RowOperator

Chances = tuple[float, ...]
Operators = list[RowOperator | Collective]

_INDEX_BYTES = 4  # of an expert's number, read and written when a token of a variant is sent to its own


@cache
def chances(experts: int, top_k: int, skew: float) -> Chances:
    """That a token visits each expert, the most popular first."""
    popularity = [(i + 1) ** -skew for i in range(experts)]
    if top_k >= experts:
        return (1.0,) * experts
    low, high = 0.0, 1.0
    while sum(high * p / (1 + high * p) for p in popularity) < top_k:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if sum(middle * p / (1 + middle * p) for p in popularity) < top_k:
            low = middle
        else:
            high = middle
    return tuple(high * p / (1 + high * p) for p in popularity)


@cache
def on_ranks(mlp: MoE, ranks: int) -> tuple[Chances, ...]:
    """The chances of the physical experts of each rank, most popular first.

    Copies go to the expert with the most load a copy, one by one. Balanced placement gives each to the rank with the
    least load that has room (longest processing time first); else experts go to the ranks in turn.
    """
    plan = mlp.deployed
    whole = chances(mlp.experts, mlp.top_k, plan.skew)
    copies = [1] * mlp.experts
    for _ in range(plan.redundant):
        copies[max(range(mlp.experts), key=lambda e: whole[e] / copies[e])] += 1
    physical = [q / n for q, n in zip(whole, copies, strict=True) for _ in range(n)]
    places: list[list[float]] = [[] for _ in range(ranks)]
    if not plan.balanced:
        for i, q in enumerate(physical):
            places[i % ranks].append(q)
    else:
        room = -(-len(physical) // ranks)
        for q in sorted(physical, reverse=True):
            min((place for place in places if len(place) < room), key=sum).append(q)
    return tuple(tuple(sorted(place, reverse=True)) for place in places)


def busiest(mlp: MoE, ranks: int) -> Chances:
    """Of the rank with the most visits."""
    return max(on_ranks(mlp, ranks), key=sum)


def imbalance(mlp: MoE, ranks: int) -> float:
    """Visits of the busiest rank over the mean: 1 = even."""
    return sum(busiest(mlp, ranks)) * ranks / mlp.top_k


def deployed(operators: Operators, mlp: MoE, ranks: int) -> Operators:
    """A layer's operators as the busiest rank runs them where its experts are deployed otherwise than evenly, all in
    device memory and without variants."""
    plan, own = mlp.deployed, busiest(mlp, ranks)
    chosen = _with_variants(mlp, own)
    held, visited = _held(mlp, len(own)), len(chosen)
    resident = ceil(plan.resident * visited)
    changed: Operators = []
    for operator in operators:
        if isinstance(operator, Experts):
            memory = held if plan.resident == 1 else resident
            operator = replace(operator, chances=chosen, held=held, resident=memory)
            if plan.resident < 1:
                changed.append(
                    ExpertFetch("expert_fetch", operator, resident, 1.0 if plan.pregated else plan.predicted)
                )
        elif isinstance(operator, Collective) and operator.kind == "all_to_all":
            operator = replace(operator, row_bytes=imbalance(mlp, ranks) * operator.row_bytes)
        changed.append(operator)
        if plan.variants and isinstance(operator, Gemm) and operator.name == "router":
            changed.append(Move("reroute", 2.0 * _INDEX_BYTES * mlp.top_k))
    return changed


def hidden_fetches(layer: Operators) -> Operators:
    """A layer whose fetches run beside all its other operators."""
    waits = (Collective, ExpertFetch, Experts)
    meanwhile = tuple(o for o in layer if not isinstance(o, waits))
    return [replace(o, beside=meanwhile) if isinstance(o, ExpertFetch) else o for o in layer]


def _with_variants(mlp: MoE, own: Chances) -> Chances:
    """The same with the experts of variants beside the model's own: tokens of a variant visit its copies."""
    variants = mlp.deployed.variants
    if variants is None:
        return own
    users = variants.count + 1
    replaced = round(variants.mean_share * len(own))
    copies = [chance / users for chance in own[:replaced] for _ in range(users)]
    return tuple(sorted([*copies, *own[replaced:]], reverse=True))


def _held(mlp: MoE, own: int) -> int:
    """Experts of one layer that a rank has room for, those of variants included."""
    variants = mlp.deployed.variants
    if variants is None:
        return own
    share = variants.mean_share if variants.layout == "tight" else variants.largest
    return own + variants.count * round(share * own)
