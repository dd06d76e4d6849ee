"""The picture of a planning run: every fleet that was replayed, by cost and power, the plan and the bound."""

from __future__ import annotations

from pathlib import Path
from string import ascii_uppercase

from ..figures import panels, save
from .planning import Planned
from .search import Tried

_NAMED = 6  # fleets of the front that are named; more would hide each other


def draw(planned: Planned, path: Path) -> None:
    """As PNG. Where power is the objective, so is the bound."""
    report, front = planned.report, planned.front
    best = next((t for t in planned.tried if report["plan"] and t.counts == report["plan"]["counts"]), None)
    figure, (axis,) = panels(["cost and power of the fleets that were replayed"])
    figure.set_size_inches(7.2, 4.8)
    for met, mark, colour, label in ((False, "x", "C3", "misses the SLO"), (True, "o", "C0", "meets the SLO")):
        mine = [_place(t) for t in planned.tried if t.verdict.met == met]
        if mine:
            axis.scatter(*zip(*mine, strict=True), marker=mark, c=colour, label=label, zorder=3)
    if len(front) > 1:
        axis.plot(*zip(*map(_place, front), strict=True), "o-", drawstyle="steps-post", c="C4", lw=1, label="front")
    if best:
        axis.scatter(*_place(best), marker="*", s=200, c="C2", label="the plan", zorder=4)
    named = list({t.name: t for t in [*([best] if best else []), *front[:_NAMED]]}.values())
    lines = ["USD an hour", ""]
    for letter, fleet in zip(ascii_uppercase, named, strict=False):
        axis.annotate(letter, _place(fleet), xytext=(7, 5), textcoords="offset points", fontsize=9)
        lines.append(f"{letter}: {fleet.name}")
    axis.set_xlabel("\n".join(lines), fontsize=8, loc="left")
    if report["bound"] is not None and report["goal"] == "energy":
        axis.axhline(report["bound"] / 1e3, c="C2", ls="--", lw=1, label=f"bound {report['bound'] / 1e3:,.2f} kW")
    elif report["bound"] is not None:
        axis.axvline(report["bound"], c="C2", ls="--", lw=1, label=f"bound ${report['bound']:,.2f}")
    axis.margins(0.15)
    axis.set_ylabel("kW on average", fontsize=8)
    axis.legend(fontsize=8)
    save(figure, path)


def _place(fleet: Tried) -> tuple[float, float]:
    return fleet.usd_per_hour, fleet.watts / 1e3
