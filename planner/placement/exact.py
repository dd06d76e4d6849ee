"""Programs that see the links: a linear bound for instances of any size, and the exact program for small ones."""

from __future__ import annotations

from math import inf
from typing import Any

from ..milp import Outcome, Program, default_solver, total
from .flow import IDLE, Range
from .instance import Floats, Instance

_MOST_FLOWS = 6000  # nodes x nodes x layers
_MOST_RANGES = 1000  # ways to hold layers x layers


def link_bound(instance: Instance, bound: float, time_limit: float) -> float:
    """Tokens/s that no placement exceeds, `bound` at most.

    Without positions: each node holds k layers to a fraction, its flow keeps its speed and its links, what enters it
    leaves it, and the nodes together do the work of all layers: sum of k x flow = layers x F. A node whose flow comes
    from the source begins at the first layer, so it does not take flow from other nodes as well.
    """
    n = instance.nodes
    program = Program("link_bound", maximize=True)
    flow = program.number("F", 0, bound)
    program.aim(flow)
    into: list[list[Any]] = [[] for _ in range(n)]
    out: list[list[Any]] = [[] for _ in range(n)]
    for i in range(n):
        for j in range(n):
            if instance.capacity[i, j] > 0:
                link = program.number(f"f_{i}_{j}", 0, min(instance.capacity[i, j], bound))
                out[i].append(link)
                into[j].append(link)
    work, entering, leaving = [], [], []
    for i in range(n):
        held: dict[tuple[bool, bool], list[Any]] = {}
        shares = []
        for k, rate in instance.node_types[instance.type_of[i]].rates.items():
            for first, last in _places(k, instance.layers):
                name = f"{i}_{k}_{first:d}{last:d}"
                share, served = program.number(f"h_{name}", 0, 1), program.number(f"g_{name}")
                program.require(served <= min(rate, bound) * share, f"rate_{name}")
                shares.append(share)
                work.append(k * served)
                held.setdefault((first, last), []).append(served)
        program.require(total(shares) <= 1, f"one_{i}")
        begins = [g for (first, _), gs in held.items() if first for g in gs]
        ends = [g for (_, last), gs in held.items() if last for g in gs]
        goes_on = [g for (first, _), gs in held.items() if not first for g in gs]
        hands_on = [g for (_, last), gs in held.items() if not last for g in gs]
        program.require(total(into[i]) == total(goes_on), f"in_{i}")
        program.require(total(out[i]) == total(hands_on), f"out_{i}")
        program.require(total(begins) <= _finite(instance.capacity[n, i], bound), f"source_{i}")
        program.require(total(ends) <= _finite(instance.capacity[i, n + 1], bound), f"sink_{i}")
        entering += begins
        leaving += ends
    program.require(total(entering) == flow, "source")
    program.require(total(leaving) == flow, "sink")
    program.require(total(work) == instance.layers * flow, "work")
    outcome = program.solve(default_solver(), time_limit=time_limit, relaxed=True)
    return min(bound, outcome.value) if outcome.status == "optimal" and outcome.value is not None else bound


def _places(held: int, layers: int) -> list[tuple[bool, bool]]:
    """Whether a range of `held` layers begins at the first and ends at the last one, in all possible ways."""
    if held == layers:
        return [(True, True)]
    if held > layers:
        return []
    return [(True, False), (False, True)] + ([(False, False)] if held <= layers - 2 else [])


def _finite(capacity: float, bound: float) -> float:
    return min(float(capacity), bound)


def worth_solving(instance: Instance) -> bool:
    """Whether the exact program is small enough to be worth a try."""
    if instance.links_bind:
        return instance.nodes**2 * instance.layers <= _MOST_FLOWS
    return sum(len(kind.rates) for kind in instance.node_types) * instance.layers <= _MOST_RANGES


def solve_exactly(
    instance: Instance, low: float, bound: float, time_limit: float
) -> tuple[Outcome, list[Range] | None]:
    """The whole problem as one program: what holds which range, and the flow through it.

    Where links bind, by node, with flows on links by layer; else by type, since it does not matter which node it is.

    low : a flow that is known to be possible. Returns what the solver found, and the placement if there is one.
    """
    n, layers = instance.nodes, instance.layers
    if instance.links_bind:
        alike = [[i] for i in range(n)]
    else:
        alike = [[i for i in range(n) if instance.type_of[i] == t] for t in range(len(instance.node_types))]
    program = Program("placement", maximize=True)
    flow = program.number("F", low * (1 - 1e-9), bound)
    program.aim(flow)
    begin: dict[tuple[int, int], list[Any]] = {}
    end: dict[tuple[int, int], list[Any]] = {}
    places: dict[str, tuple[int, Range]] = {}
    for u, nodes in enumerate(alike):
        chosen = []
        for k, rate in instance.node_types[instance.type_of[nodes[0]]].rates.items():
            for start in range(layers - k + 1):
                name = f"{u}_{k}_{start}"
                place, served = program.count(f"x_{name}", 0, len(nodes)), program.number(f"g_{name}")
                program.require(served <= min(rate, bound) * place, f"rate_{name}")
                begin.setdefault((u, start), []).append(served)
                end.setdefault((u, start + k), []).append(served)
                places[f"x_{name}"] = (u, (start, k))
                chosen.append(place)
        program.require(total(chosen) <= len(nodes), f"nodes_{u}")
    if instance.links_bind:
        _connect(program, instance, begin, end, bound)
    else:
        for p in range(1, layers):
            ended, begun = (total(f for (_, at), fs in ends.items() if at == p for f in fs) for ends in (end, begin))
            program.require(ended == begun, f"layer_{p}")
    _terminate(program, {u: fs for (u, p), fs in begin.items() if p == 0}, instance.capacity[n], flow, "source")
    _terminate(program, {u: fs for (u, p), fs in end.items() if p == layers}, instance.capacity[:, n + 1], flow, "sink")
    outcome = program.solve(default_solver(), time_limit=time_limit)
    if outcome.value is None:
        return outcome, None
    ranges, free = [IDLE] * n, [list(nodes) for nodes in alike]
    for name, (u, where) in places.items():
        for _ in range(round(outcome.values[name])):
            ranges[free[u].pop()] = where
    return outcome, ranges


def _connect(
    program: Program,
    instance: Instance,
    begin: dict[tuple[int, int], list[Any]],
    end: dict[tuple[int, int], list[Any]],
    bound: float,
) -> None:
    """Flow from where ranges end to where ranges begin, within the links' capacities."""
    n, layers = instance.nodes, instance.layers
    into: dict[tuple[int, int], list[Any]] = {}
    out: dict[tuple[int, int], list[Any]] = {}
    for i in range(n):
        for j in range(n):
            capacity = float(instance.capacity[i, j])
            borders = [p for p in range(1, layers) if (i, p) in end and (j, p) in begin] if capacity > 0 else []
            for p in borders:
                link = program.number(f"f_{i}_{j}_{p}", 0, min(capacity, bound))
                out.setdefault((i, p), []).append(link)
                into.setdefault((j, p), []).append(link)
    for (i, p), served in begin.items():
        if p:
            program.require(total(served) == total(into.get((i, p), [])), f"in_{i}_{p}")
    for (i, p), served in end.items():
        if p < layers:
            program.require(total(served) == total(out.get((i, p), [])), f"out_{i}_{p}")


def _terminate(program: Program, served: dict[int, list[Any]], capacity: Floats, flow: Any, name: str) -> None:
    """All flow comes from the source, or goes to the sink, over links of theirs."""
    for u, mine in served.items():
        if capacity[u] < inf:
            program.require(total(mine) <= float(capacity[u]), f"{name}_{u}")
    program.require(total(part for mine in served.values() for part in mine) == flow, name)
