"""Zones in the program of a fleet: who may hand over to whom, what links carry, and what they are worth.

`link_W_K` limits the GB over link K in scenario W; `fleet` has those of the whole trace, by pairs of offers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

from ..milp import Program, total
from .problem import Offer, Problem, zones_of

_GB = 1e9
_AMPLE = 1e15  # bytes/s

Place = tuple[str, str]  # role and zone of replicas
Ways = Collection[tuple[str, str]]  # links


def stay_near(places: Collection[Place]) -> bool:
    """Whether prompts may be decoded where they are computed: every zone that decodes computes prompts, too."""
    first, then = ({zone for role, zone in places if role == phase} for phase in ("prefill", "decode"))
    return len(then) > 1 and then <= first and all(role != "mixed" for role, _ in places)


def connected(places: Collection[Place], links: Ways, near: bool) -> bool:
    """Whether all that compute prompts can hand them over. near : those in a zone where some decode do so there."""
    first = {zone for role, zone in places if role == "prefill"}
    then = {zone for role, zone in places if role != "prefill"}
    near = near and stay_near(places)
    return all(a == b or (a, b) in links or (near and a in then) for a in first for b in then)


def add_zones(
    program: Program, problem: Problem, counts: Mapping[str, Any], loads: Sequence[Sequence[Mapping[int, Any]]]
) -> None:
    """counts : variables by offer. loads : by scenario and bucket, the requests that each offer gets."""
    _keep_apart(program, problem, counts)
    for w, load in enumerate(loads[1:], 1):
        if problem.scenarios[w].prompts:
            continue
        sent = add_ways(program, problem, load, f"way_{w}")
        for k, (way, bandwidth) in enumerate(problem.links.items()):
            program.require(sent[way] <= problem.scenarios[w].seconds * bandwidth / _GB, f"link_{w}_{k}")


def _keep_apart(program: Program, problem: Problem, counts: Mapping[str, Any]) -> None:
    """Only fleets that are `connected`."""
    places = dict.fromkeys((offer.role, problem.zones[offer.gpu]) for offer in problem.offers)
    first, then = ([p for p in places if (p[0] == "prefill") == prompts] for prompts in (True, False))
    unlinked = [(p, d) for p in first for d in then if p[1] != d[1] and (p[1], d[1]) not in problem.links]
    if not unlinked:
        return
    inside = {place: _inside(program, problem, counts, place, f"zone_{k}") for k, place in enumerate(places)}
    near = program.count("near", 0, int(problem.near))
    for k, (role, zone) in enumerate(then):
        prompts = inside.get(("prefill", zone), 0) if role == "decode" else 0
        program.require(near + inside[role, zone] <= 1 + prompts, f"near_{k}")
    for k, (p, d) in enumerate(unlinked):
        both = inside[p] + inside[d]
        program.require(both <= 1 + near, f"apart_{k}")
        program.require(both <= 1 + inside.get(("decode", p[1]), 0), f"apart_{k}_near")


def _inside(program: Program, problem: Problem, counts: Mapping[str, Any], place: Place, name: str) -> Any:
    """A binary: whether a fleet has replicas there."""
    offers = [offer for offer in problem.offers if _stands(problem, offer, *place)]
    any_ = program.count(name, 0, 1)
    there = total(counts[offer.name] for offer in offers)
    program.require(there <= sum(offer.most for offer in offers) * any_, f"{name}_most")
    program.require(there >= any_, f"{name}_least")
    return any_


def add_ways(
    program: Program, problem: Problem, load: Sequence[Mapping[int, Any]], name: str
) -> dict[tuple[str, str], Any]:
    """Have KV cache go from zone to zone, however the replicas of a zone share it; returns the GB by (from, to).

    load : by bucket, the requests that each offer gets.
    """
    zones = sorted(set(problem.zones.values()))
    ways = [(a, b) for a in zones for b in zones if a == b or (a, b) in problem.links]
    sent: dict[tuple[str, str], list[Any]] = {way: [] for way in ways}
    for b, amounts in enumerate(load):
        size = min((offer.kv_bytes[b] for offer in problem.offers if offer.kv_bytes), default=0.0) / _GB
        flows = {way: program.number(f"{name}_{b}_{k}") for k, way in enumerate(ways)}
        for way, flow in flows.items():
            sent[way].append(size * flow)
        for end, role in enumerate(("prefill", "decode")):
            for z, zone in enumerate(zones):
                mine = (x for i, x in amounts.items() if _stands(problem, problem.offers[i], role, zone))
                through = total(flow for way, flow in flows.items() if way[end] == zone)
                program.require(through == total(mine), f"{name}_{b}_{role}_{z}")
    return {way: total(parts) for way, parts in sent.items()}


def _stands(problem: Problem, offer: Offer, role: str, zone: str) -> bool:
    return offer.role == role and problem.zones[offer.gpu] == zone


def what_links_are_worth(problem: Problem, duals: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """For each link, and what a GB/s more of it would save, as the objective counts."""
    for k, way in enumerate(problem.links):
        saved = -sum(duals.get(f"link_{w}_{k}", 0.0) * s.seconds for w, s in enumerate(problem.scenarios))
        yield "{} to {}".format(*way), saved


def with_ample_links(problem: Problem) -> Iterator[tuple[str, Problem]]:
    """What binds if `problem` has an answer as soon as one link between zones is there and boundless."""
    for a, b in permutations(sorted(set(problem.zones.values())), 2):
        found = f"the link from {a} to {b} binds" if (a, b) in problem.links else f"no link from {a} to {b}"
        yield found, replace(problem, links={**problem.links, (a, b): _AMPLE})


def too_slow(problem: Problem) -> Iterator[tuple[str, int, int]]:
    """Links over which pairs of replicas would miss a limit on TPOT: pairs by buckets, and of how many."""
    named = {offer.name: offer for offer in problem.offers}
    for way in problem.links:
        closed = sum(zones_of(problem, named[p], named[d]) == way for p, d, _ in problem.closed)
        if closed:
            ends = zip(("prefill", "decode"), way, strict=True)
            here, there = (sum(_stands(problem, o, role, zone) for o in problem.offers) for role, zone in ends)
            yield "{} to {}".format(*way), closed, here * there * len(problem.rates)
