"""A fleet as a plan that `servecast simulate` takes, with the routers that realise the planned shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..configs.plan import Plan, plan_from
from ..sim.write import replace_file
from .candidates import Candidate, plan_values
from .inventory import Inventory

Routing = Sequence[Mapping[tuple[str, ...], float]]  # by bucket: share by (offer,) or (prefill, decode)


def values_of(
    inventory: Inventory, fleet: Mapping[Candidate, int], routing: Routing, bounds: Sequence[int],
    seconds: Mapping[str, float],
) -> dict[str, Any]:  # fmt: skip
    """The mapping of a plan file.

    routing : share of each bucket of prompt lengths, with the buckets' `bounds`, by instance type. seconds : that a
    request stays on an instance type; a replica that gets `rate` requests/s then holds rate x seconds of them (Little).
    """
    pools = {candidate.pool: n for candidate, n in fleet.items()}
    roles = {candidate.role for candidate in fleet}
    if roles == {"mixed"}:
        return plan_values(inventory, pools, router=_router(fleet, routing, bounds, seconds, "prefill"))
    decodes = _router(fleet, routing, bounds, seconds, "decode")
    apart: dict[str, Any] = {"decode_router": decodes, **inventory.disaggregation}
    if "mixed" in roles:
        apart["keep_mixed"] = True
    firsts = _router(fleet, routing, bounds, seconds, "prefill")
    return plan_values(inventory, pools, router=firsts, disaggregation=apart)


def _router(
    fleet: Mapping[Candidate, int], routing: Routing, bounds: Sequence[int], seconds: Mapping[str, float], phase: str
) -> str | dict[str, Any]:
    """The router of prompts (phase "prefill"), or of requests that are handed over to decode."""
    usual = {"prefill": {"prefill": {"name": "least_outstanding", "by": "tokens"}}}.get(phase, {})
    mine = [c for c in fleet if c.role == phase or (phase == "prefill" and c.role == "mixed")]
    if len(mine) == 1:
        others = any(c.role == "mixed" for c in fleet) and phase == "decode"  # that must not be handed anything
        if not others:
            return usual.get(mine[0].role, "least_outstanding")
    at = 0 if phase == "prefill" else -1
    rows = []
    for shares in routing:
        held = {
            c: sum(x for way, x in shares.items() if way[at] == c.name) / n * seconds[c.name] for c, n in fleet.items()
        }
        held = {c: amount if c in mine else 0.0 for c, amount in held.items()}
        most = max(held.values()) or 1.0
        rows.append([round(held[c] / most, 4) for c, n in fleet.items() for _ in range(n)])
    if all(row == rows[0] for row in rows):
        return {"name": "planned_shares", "weights": rows[:1]}
    return {"name": "planned_shares", "weights": rows, "bounds": list(bounds)}


def plan_of(values: dict[str, Any], name: str = "fleet") -> Plan:
    """The plan of such a mapping."""
    return plan_from(values, name)


def write_plan(values: dict[str, Any], path: Path, comment: Sequence[str]) -> None:
    """A plan file that begins with `comment`."""
    text = "".join(f"# {line}\n" for line in comment) + yaml.safe_dump(values, sort_keys=False, width=120)
    replace_file(path, lambda file: file.write(text.encode()))
