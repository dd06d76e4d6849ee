"""A fleet as a plan that `servecast simulate` takes, with the router that realises the planned shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..configs.plan import Plan, plan_from
from ..sim.write import replace_file
from .candidates import Candidate, plan_values
from .inventory import Inventory

Routing = Sequence[Mapping[tuple[str, ...], float]]  # by bucket: share by offer


def values_of(
    inventory: Inventory, fleet: Mapping[Candidate, int], routing: Routing, bounds: Sequence[int],
    seconds: Mapping[str, float],
) -> dict[str, Any]:  # fmt: skip
    """The mapping of a plan file.

    routing : share of each bucket of prompt lengths, with the buckets' `bounds`, by instance type. seconds : that a
    request stays on an instance type; a replica that gets `rate` requests/s then holds rate x seconds of them (Little).
    """
    router: str | dict[str, Any] = "least_outstanding"
    if len(fleet) > 1:
        rows = []
        for shares in routing:
            held = {c: shares.get((c.name,), 0.0) / n * seconds[c.name] for c, n in fleet.items()}
            most = max(held.values()) or 1.0
            rows.append([round(held[c] / most, 4) for c, n in fleet.items() for _ in range(n)])
        router = {"name": "planned_shares", "weights": rows, "bounds": list(bounds)}
        if all(row == rows[0] for row in rows):
            router = {"name": "planned_shares", "weights": rows[:1]}
    return plan_values(inventory, {candidate.pool: n for candidate, n in fleet.items()}, router)


def plan_of(values: dict[str, Any], name: str = "fleet") -> Plan:
    """The plan of such a mapping."""
    return plan_from(values, name)


def write_plan(values: dict[str, Any], path: Path, comment: Sequence[str]) -> None:
    """A plan file that begins with `comment`."""
    text = "".join(f"# {line}\n" for line in comment) + yaml.safe_dump(values, sort_keys=False, width=120)
    replace_file(path, lambda file: file.write(text.encode()))
