"""A planning report as lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def summary(report: dict[str, Any]) -> str:
    """The plan, its bound and replay, and why."""
    return "\n".join(_lines(report))


def _lines(r: dict[str, Any]) -> Iterator[str]:
    plan = r["plan"]
    if plan is None:
        yield "no plan: " + r["stopped"]
    else:
        yield "plan: " + _priced(plan)
        unit = "W" if r["goal"] == "energy" else "$/h"
        bound = "none" if r["bound"] is None else f"{r['bound']:,.2f}"
        yield f"value {r['value']:,.2f} {unit}, bound {bound}, gap {r['gap']:.2%} (of {r['bound_certifies']})"
        yield "simulated:"
        for objective in plan["objectives"]:
            low, high = r.get("intervals", {}).get(objective["objective"], (None, None))
            spread = "" if low is None else f", 95 % interval {low:.4g} to {high:.4g}"
            verdict = "met   " if objective["met"] else "MISSED"
            yield f"  {verdict} {objective['objective']} ({_value(objective)}{spread})"
    yield "why:"
    yield from (f"  {line}" for line in r["explanation"])
    if r.get("baselines"):
        yield "simpler rules:"
        for b in r["baselines"]:
            verdict = "meets the SLO" if b["met"] else f"misses {b['missed']}"
            yield f"  {b['rule']}: {_counts(b['counts'])}, ${b['usd_per_hour']:,.2f}/h, {verdict}"
            if not b["met"] and b["counts_that_meet"]:
                yield f"    {_counts(b['counts_that_meet'])} would meet it, ${b['usd_per_hour_that_meets']:,.2f}/h"
    if r.get("goodput"):
        yield "goodput per cost:"
        for g in r["goodput"]:
            rates = f"{g['request_goodput']:.3g} requests/s, {g['goodput_per_usd']:,.0f} a dollar"
            yield f"  {_counts(g['counts'])}, ${g['usd_per_hour']:,.2f}/h: {rates}"
    if r.get("pareto"):
        yield "cost against power:"
        for p in r["pareto"]:
            yield "  " + _priced(p)
    if r.get("stress"):
        yield from _stress(r["stress"])
    if "exhaustive" in r:
        best = r["exhaustive"]
        yield "exhaustive: " + (
            f"{_counts(best['counts'])}, ${best['usd_per_hour']:,.2f}/h" if best else "no fleet meets the SLO"
        )
    e = r["effort"]
    yield (
        f"{e['simulations']:,} simulations of {e['simulated_requests']:,} requests, {e['cached']:,} out of the cache, "
        f"{e['seconds']:.1f} s; {len(r['tried']):,} fleets replayed, {len(r['rejected']):,} kinds of replicas ruled out"
    )


def _stress(stress: dict[str, Any]) -> Iterator[str]:
    yield "under stress (requests over their limit, as a multiple of those that may be):"
    robust = stress["robust_plan"]
    if robust:
        yield f"  planned for the most of it: {_counts(robust['counts'])}, ${robust['usd_per_hour']:,.2f}/h"
    for i, row in enumerate(stress["nominal"]):
        cells = [("this plan", row), *([("robust", stress["robust"][i])] if robust else [])]
        for kind in ("load", "service_time"):
            shown = ", ".join(f"{who} {'ok' if r[kind]['met'] else 'MISS'} {r[kind]['beyond']:.2g}" for who, r in cells)
            yield f"  {kind.replace('_', ' ')} x {row['factor']:g}: {shown}"


def _counts(counts: dict[str, int]) -> str:
    return " + ".join(f"{n} x {name}" for name, n in sorted(counts.items()))


def _priced(fleet: dict[str, Any]) -> str:
    return f"{_counts(fleet['counts'])}, ${fleet['usd_per_hour']:,.2f}/h, {fleet['watts'] / 1e3:,.2f} kW on average"


def _value(objective: dict[str, Any]) -> str:
    return "nothing to measure" if objective["value"] is None else f"{objective['value']:.4g}"
