"""A fleet as a plan that `servecast simulate` takes, with the routers that realise the planned shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from ...configs.plan import Plan, plan_from
from ...sim.report.write import replace_file
from ..candidates import Candidate, plan_values
from ..inventory import Inventory
from ..program.promise import Routing


def values_of(
    inventory: Inventory, fleet: Mapping[Candidate, int], routing: Routing, bounds: Sequence[int],
    seconds: Mapping[str, float], near: bool = False, affinity: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """The mapping of a plan file.

    routing : share of each bucket of prompt lengths, with the buckets' `bounds`, by instance type. seconds : that a
    request stays on an instance type; a replica that gets `rate` requests/s then holds rate x seconds of them (Little).
    near : prompts are decoded in the zone where they are computed. affinity : requests go where their prefix is cached,
    unless that replica holds many times the load of others.
    """
    pools = [replace(candidate.pool, replicas=n) for candidate, n in fleet.items()]
    roles = {candidate.role for candidate in fleet}
    if roles == {"mixed"}:
        return plan_values(inventory, pools, router=_router("mixed", fleet, routing, bounds, seconds, affinity))
    first = _router("prefill", fleet, routing, bounds, seconds, affinity)
    then = _router("decode", fleet, routing, bounds, seconds, False)
    stay = {"keep_mixed": "mixed" in roles, "near": near}
    apart = {"decode_router": then, **{key: True for key, on in stay.items() if on}, **inventory.disaggregation}
    return plan_values(inventory, pools, router=first, disaggregation=apart)


def _router(
    phase: str, fleet: Mapping[Candidate, int], routing: Routing, bounds: Sequence[int], seconds: Mapping[str, float],
    affinity: bool,
) -> str | dict[str, Any]:  # fmt: skip
    """The router of new requests, or (phase "decode") of those that are handed over: by replica, how many it holds."""
    able = [c for c in fleet if c.role == phase or (c.role == "mixed" and phase != "decode")]
    if not affinity and len(able) == 1 and (len(fleet) == 1 or "mixed" not in {c.role for c in fleet}):
        return {"name": "least_outstanding", "by": "tokens"} if phase == "prefill" else "least_outstanding"
    rows = []
    for shares in routing:
        held = {
            c: shares.get((phase, c.name), 0.0) / n * seconds[c.name] if c in able else 0.0 for c, n in fleet.items()
        }
        most = max(held.values()) or 1.0
        rows.append([round(held[c] / most, 4) for c, n in fleet.items() for _ in range(n)])
    more = {"affinity": True} if affinity else {}
    if all(row == rows[0] for row in rows):
        return {"name": "planned_shares", "weights": rows[:1], **more}
    return {"name": "planned_shares", "weights": rows, "bounds": list(bounds), **more}


def plan_of(values: dict[str, Any], name: str = "fleet") -> Plan:
    """The plan of such a mapping."""
    return plan_from(values, name)


def write_plan(values: dict[str, Any], path: Path, comment: Sequence[str]) -> None:
    """A plan file that begins with `comment`."""
    text = "".join(f"# {line}\n" for line in comment) + yaml.safe_dump(values, sort_keys=False, width=120)
    replace_file(path, lambda file: file.write(text.encode()))
