"""Zones in the program of a fleet: who may hand over to whom, what links carry, and what they are worth.

`link_W_K` limits the GB over link K in scenario W; `fleet` has those of the whole trace, by pairs of offers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .milp import Program, total
from .problem import Offer, Problem, zones_of

_GB = 1e9


def add_zones(
    program: Program, problem: Problem, counts: Mapping[str, Any], loads: Sequence[Sequence[Mapping[int, Any]]]
) -> None:
    """counts : variables by offer. loads : by scenario and bucket, the requests that each offer gets."""
    _keep_apart(program, problem, counts)
    if problem.links and any(offer.role == "prefill" for offer in problem.offers):
        for w, load in enumerate(loads[1:], 1):
            if not problem.scenarios[w].prompts:
                _cross(program, problem, w, load)


def _keep_apart(program: Program, problem: Problem, counts: Mapping[str, Any]) -> None:
    """Prompts are computed nowhere from where no link leads to a zone in which somebody decodes."""
    sides: dict[tuple[bool, str], list[Offer]] = {}
    for offer in problem.offers:
        sides.setdefault((offer.role == "prefill", problem.zones[offer.gpu]), []).append(offer)
    inside = {}
    for k, (side, offers) in enumerate(sides.items()):
        inside[side] = program.count(f"zone_{k}", 0, 1)
        most = sum(offer.most for offer in offers)
        program.require(total(counts[offer.name] for offer in offers) <= most * inside[side], f"zone_{k}")
    for k, (first, a) in enumerate(sides):
        for m, (prefills, b) in enumerate(sides):
            if first and not prefills and a != b and (a, b) not in problem.links:
                program.require(inside[first, a] + inside[prefills, b] <= 1, f"apart_{k}_{m}")


def _cross(program: Program, problem: Problem, w: int, load: Sequence[Mapping[int, Any]]) -> None:
    """KV cache from zone to zone in a window, however the replicas of a zone share it."""
    zones = sorted(set(problem.zones.values()))
    ways = [(a, b) for a in zones for b in zones if a == b or (a, b) in problem.links]
    sent: dict[tuple[str, str], list[Any]] = {way: [] for way in ways}
    for b, amounts in enumerate(load):
        size = min(offer.kv_bytes[b] for offer in problem.offers) / _GB
        flows = {way: program.number(f"way_{w}_{b}_{k}") for k, way in enumerate(ways)}
        for way, flow in flows.items():
            sent[way].append(size * flow)
        for end, role in enumerate(("prefill", "decode")):
            for z, zone in enumerate(zones):
                mine = (x for i, x in amounts.items() if _stands(problem, problem.offers[i], role, zone))
                through = total(flow for way, flow in flows.items() if way[end] == zone)
                program.require(through == total(mine), f"way_{w}_{b}_{role}_{z}")
    for k, (way, bandwidth) in enumerate(problem.links.items()):
        program.require(total(sent[way]) <= problem.scenarios[w].seconds * bandwidth / _GB, f"link_{w}_{k}")


def _stands(problem: Problem, offer: Offer, role: str, zone: str) -> bool:
    return offer.role == role and problem.zones[offer.gpu] == zone


def what_links_are_worth(problem: Problem, duals: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """For each link, and what a GB/s more of it would save, as the objective counts."""
    for k, way in enumerate(problem.links):
        saved = -sum(duals.get(f"link_{w}_{k}", 0.0) * s.seconds for w, s in enumerate(problem.scenarios))
        yield "{} to {}".format(*way), saved


def too_slow(problem: Problem) -> Iterator[tuple[str, int, int]]:
    """Links over which pairs of replicas would miss a limit on TPOT: pairs and buckets, of so many."""
    named = {offer.name: offer for offer in problem.offers}
    for way in problem.links:
        closed = sum(zones_of(problem, named[p], named[d]) == way for p, d, _ in problem.closed)
        if closed:
            ends = zip(("prefill", "decode"), way, strict=True)
            here, there = (sum(_stands(problem, o, role, zone) for o in problem.offers) for role, zone in ends)
            yield "{} to {}".format(*way), closed, here * there * len(problem.rates)
