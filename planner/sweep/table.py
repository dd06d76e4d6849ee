"""The table of a sweep: one row a run with its settings, how it ended, and its headline figures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...sim.report.write import write_bytes
from .ledger import Row

Record = dict[str, Any]


def records(rows: Sequence[Row], folder: Path) -> list[Record]:
    """A flat record for every run: all settings that any run has, `status`, `error`, `fingerprint`, and its figures."""
    keys = dict.fromkeys(key for row in rows for key in row.settings)
    return [{**keys, **_record(row, folder)} for row in rows]


def _record(row: Row, folder: Path) -> Record:
    settings = {key: value if _scalar(value) else json.dumps(value) for key, value in row.settings.items()}
    figures = headline(json.loads((folder / row.result).read_bytes())) if row.status == "done" else {}
    return {**settings, "status": row.status, "error": row.error, "fingerprint": row.fingerprint, **figures}


def _scalar(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)


def headline(report: dict[str, Any]) -> Record:
    """The figures of a report that are one value each."""
    figures = {key: value for key, value in report.items() if _scalar(value)}
    if "slo" in report:
        figures["goodput_of_offered"] = report["slo"]["goodput_of_offered"]
        figures["objectives_met"] = all(objective["met"] for objective in report["slo"]["objectives"])
    simulation = report["simulation"]
    figures["load"] = simulation["load"]["verdict"]
    figures["preemptions"] = simulation["preemptions"]
    figures["extrapolated_share"] = simulation["extrapolated_share"]
    figures["invariants_hold"] = all(simulation["invariants"].values())
    return figures


def write_table(table: Sequence[Record], path: Path) -> None:
    """A CSV file with the columns of all records, in order of first appearance; empty where a record has none."""
    columns = list(dict.fromkeys(key for record in table for key in record))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    write_bytes(text.getvalue().encode(), path)
