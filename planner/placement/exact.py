"""The whole problem as one integer program, for small instances."""

from __future__ import annotations

from math import inf
from typing import Any

from ..milp import Outcome, Program, default_solver, total
from .flow import IDLE, Range
from .instance import Floats, Instance

_MOST_FLOWS = 6000  # nodes x nodes x layers
_MOST_RANGES = 1000  # ways to hold layers x layers


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
