"""`servecast plan --instance FILE`: solves planning problems and says how far from optimal an answer can be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..configs.strict import describe, read_text
from ..errors import InputError
from .gpu_mix import GpuMix, Mix, cheapest_mix, mix_from, no_solution
from .milp import relative_gap
from .placement.instance import Instance, instance_from
from .placement.solve import Placed, place

_MAIN = 0.6  # share of the time for continuous routing; the restricted modes halve what is left


def solve_file(path: Path, *, solver: str, time_limit: float, seed: int) -> Iterator[dict[str, Any]]:
    """One result after the other: name, value, bound, gap, seconds, status and the solution.

    The file holds one problem, a list of them, or a mapping with them under `instance` or `instances`. All are read
    before the first is solved.
    """
    for problem in list(_problems(path)):
        if isinstance(problem, GpuMix):
            yield _mix_result(problem, solver, time_limit)
        else:
            yield _placement_result(place(problem, time_limit, seed))


def _problems(path: Path) -> Iterator[GpuMix | Instance]:
    try:
        data = json.loads(read_text(path))
    except ValueError as error:
        raise InputError(str(path), f"not JSON ({error})", "a JSON file") from None
    except RecursionError:
        raise InputError(str(path), "not JSON (nested too deeply)", "a JSON file") from None
    try:
        yield from _in(data, path.stem)
    except InputError as error:
        raise error.at(f"{path}:") from None


def _in(data: object, name: str) -> Iterator[GpuMix | Instance]:
    if isinstance(data, list):
        for number, item in enumerate(data):
            own = item.get("name") if isinstance(item, dict) else None
            yield from _in(item, own if isinstance(own, str) else f"[{number}]")
    elif isinstance(data, dict) and ("instance" in data or "instances" in data):
        yield from _in(data.get("instance", data.get("instances")), name)
    elif isinstance(data, dict) and "gpus" in data:
        yield mix_from(data, name)
    elif isinstance(data, dict) and ("node_types" in data or "layers" in data):
        yield instance_from(data, name)
    else:
        found = f"keys {', '.join(map(str, data))}" if isinstance(data, dict) else describe(data)
        raise InputError("", found, "gpus, workload_share and request_rate, or layers and node_types")


def _mix_result(mix: GpuMix, solver: str, time_limit: float) -> dict[str, Any]:
    """With continuous routing, and with the two modes of Melange. What bounds the freer mode bounds the others, and
    whole buckets are a solution of buckets in slices."""
    best = cheapest_mix(mix, solver, _MAIN * time_limit)
    if best is None:
        raise no_solution(mix, time_limit)
    left = time_limit - best.outcome.seconds
    whole = cheapest_mix(mix, solver, left / 2, slices=1)
    left -= whole.outcome.seconds if whole else left / 2
    sliced = cheapest_mix(mix, solver, left, slices=2)
    if whole and (sliced is None or whole.cost < sliced.cost):
        sliced = replace(whole, outcome=replace(whole.outcome, bound=sliced.outcome.bound if sliced else None))
    routing = [{"input": i, "output": j, "shares": shares} for (i, j), shares in best.shares.items()]
    figures = _mix_figures(best, 0.0)
    halves = _mix_figures(sliced, figures["bound"]) if sliced else {"status": "time limit", "bound": figures["bound"]}
    wholes = _mix_figures(whole, halves["bound"]) if whole else {"status": "time limit"}
    return {
        "name": mix.name, "kind": "gpu mix", "assignment": "continuous", **figures, "routing": routing,
        "restricted": [{"assignment": "whole buckets", **wholes}, {"assignment": "buckets in 2 slices", **halves}],
    }  # fmt: skip


def _mix_figures(mix: Mix, bound: float) -> dict[str, Any]:
    """bound : known already."""
    bound = min(max(mix.outcome.bound or 0.0, bound), mix.cost)
    gap = relative_gap(mix.cost, bound)
    return {
        "value": mix.cost, "bound": bound, "gap": gap, "seconds": mix.outcome.seconds,
        "status": "optimal" if gap <= 1e-7 else "time limit", "solver": mix.outcome.solver, "counts": mix.counts,
    }  # fmt: skip


def _placement_result(placed: Placed) -> dict[str, Any]:
    instance = placed.instance
    ends = {instance.nodes: "source", instance.nodes + 1: "sink"}
    return {
        "name": instance.name, "kind": "layer placement", "value": placed.value, "bound": placed.bound,
        "gap": placed.gap, "seconds": placed.seconds, "status": "optimal" if placed.gap == 0 else "time limit",
        "nodes": [
            {"node": i, "type": instance.type_of[i], "first_layer": start, "layers": held}
            for i, (start, held) in enumerate(placed.ranges) if held
        ],
        "links": [
            {"from": ends.get(i, i), "to": ends.get(j, j), "tokens_per_s": rate}
            for (i, j), rate in placed.links.items()
        ],
    }  # fmt: skip


def table(results: list[dict[str, Any]]) -> str:
    """The results without their solutions, a line each."""
    lines = [f"{'instance':<36}{'value':>14}{'bound':>14}{'gap':>9}{'seconds':>9}  status"]
    for result in results:
        rows = [result] + [{**row, "name": f"  {row['assignment']}"} for row in result.get("restricted", ())]
        for row in rows:
            figures = (
                f"{row['value']:>14,.4f}{row['bound']:>14,.4f}{_percent(row['gap'])}{row['seconds']:>9.2f}"
                if "value" in row
                else " " * 46
            )
            lines.append(f"{row['name']:<36}{figures}  {row['status']}")
    return "\n".join(lines)


def _percent(gap: float | None) -> str:
    return f"{'none':>9}" if gap is None else f"{gap:>9.2%}"
