"""A gate's results for people and machines: a table, JSON, JUnit XML, Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from .check import Result
from .verdicts import Row, Verdict

_HEADER = ("verdict", "objective", "value", "limit", "headroom", "baseline", "change", "why")


def as_text(results: Sequence[Result]) -> str:
    """A table a case."""
    lines = []
    for result in results:
        lines.append(f"{result.case.name}: {result.verdict.word}" + (" (new plan)" if result.plan_changed else ""))
        for row in result.rows:
            figures = _cells(row)
            shown = ", ".join(
                text
                for text in (
                    figures["value"],
                    f"{figures['headroom']} headroom" if figures["headroom"] else "",
                    f"{figures['change']} on the baseline" if figures["change"] else "",
                    figures["why"],
                )
                if text
            )
            lines.append(f"  {row.verdict.word:<8} {row.objective}" + (f": {shown}" if shown else ""))
        lines += [f"  note: {note}" for note in result.notes]
    return "\n".join(lines)


def as_dict(results: Sequence[Result], exit_code: int) -> dict[str, Any]:
    """What `slo.json` holds."""
    return {
        "verdict": worst(results).word,
        "exit_code": exit_code,
        "cases": [
            {
                "name": result.case.name, "verdict": result.verdict.word, "plan_changed": result.plan_changed,
                "objectives": [row.as_dict() for row in result.rows], "notes": list(result.notes),
            }
            for result in results
        ],
    }  # fmt: skip


def worst(results: Sequence[Result]) -> Verdict:
    """Of all cases."""
    return max((result.verdict for result in results), default=Verdict.PASS)


def as_junit(results: Sequence[Result]) -> bytes:
    """JUnit XML, a test case an objective: what fails or regresses is a failure, what is invalid an error."""
    root = ElementTree.Element("testsuites", name="servecast slo")
    for result in results:
        verdicts = [row.verdict for row in result.rows]
        counts = {
            "tests": len(verdicts),
            "failures": sum(v in (Verdict.FAIL, Verdict.REGRESS) for v in verdicts),
            "errors": verdicts.count(Verdict.INVALID),
            "skipped": verdicts.count(Verdict.UNSURE),
        }
        attributes = {"name": result.case.name} | {name: str(count) for name, count in counts.items()}
        suite = ElementTree.SubElement(root, "testsuite", attributes)
        for row in result.rows:
            test = ElementTree.SubElement(suite, "testcase", classname=result.case.name, name=row.objective)
            tag = {Verdict.INVALID: "error", Verdict.UNSURE: "skipped"}.get(row.verdict, "failure")
            if row.verdict:
                cells = _cells(row)
                text = f"{row.verdict.word}: {cells['value']} (limit {cells['limit']}) {cells['why']}".strip()
                ElementTree.SubElement(test, tag, message=text)
    ElementTree.indent(root)
    return ElementTree.tostring(root, "utf-8", xml_declaration=True) + b"\n"


def as_markdown(results: Sequence[Result]) -> str:
    """For the summary of a CI job."""
    lines = [f"## servecast slo: {worst(results).word}", ""]
    for result in results:
        lines += [f"### {result.case.name}: {result.verdict.word}", ""]
        lines += [f"| {' | '.join(_HEADER)} |", "|" + "---|" * len(_HEADER)]
        for row in result.rows:
            cells = {**_cells(row), "verdict": f"**{row.verdict.word}**", "objective": f"`{row.objective}`"}
            lines.append("| " + " | ".join(cells[name].replace("|", "\\|") for name in _HEADER) + " |")
        changed = ["the plan is another than the baseline's"] if result.plan_changed else []
        lines += ["", *(f"- {note}" for note in (*changed, *result.notes)), ""]
    return "\n".join(lines)


def _cells(row: Row) -> dict[str, str]:
    def figure(value: float | None) -> str:
        if value is None:
            return ""
        return f"{value * 1e3:,.4g} ms" if row.latency else f"{value:,.4g}"

    return {
        "verdict": row.verdict.word, "objective": row.objective, "value": figure(row.value), "limit": figure(row.limit),
        "headroom": "" if row.headroom is None else f"{row.headroom:.1%}", "baseline": figure(row.baseline),
        "change": "" if row.change is None else f"{row.change:+.1%}", "why": row.reason,
    }  # fmt: skip
