"""A run as tables of pandas, with the columns of the files that `servecast simulate --out` writes (docs/output.md)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..sim.records import End
from ..sim.report.metrics import PERCENTS
from ..sim.report.programs import program_rows
from ..sim.report.timeseries import time_series
from ..sim.report.write import COUNTS, LABELS, fixed_point_columns, time_columns

if TYPE_CHECKING:
    from pandas import DataFrame

    from ..sim.run import Run

STATISTICS = ("mean", "median", "std", *(f"p{percent}" for percent in PERCENTS))
LATENCIES = ("ttft", "tpot", "itl", "e2el")


def request_frame(run: Run) -> DataFrame:
    """One row a request in order of submission; times, latencies and components in seconds, nan where they never came.

    Columns as in `requests.csv.gz`, with the same values.
    """
    import pandas as pd

    c = run.recorder.requests.columns()
    order = np.argsort(c["index"], kind="stable")
    c = {name: column[order] for name, column in c.items()}
    rows, table = c["row"], run.table
    ids = rows.astype(str) if table.request_id is None else np.array(table.request_id.names)[table.request_id.codes]
    columns: dict[str, Any] = {"request_id": ids if table.request_id is None else ids[rows]}
    for name in LABELS:
        labels = getattr(table, name)
        if labels is not None:
            columns[name] = pd.Categorical.from_codes(labels.codes[rows], pd.Index(labels.names))
    if table.priority is not None:
        columns["priority"] = table.priority[rows]
    columns["replica"] = c["replica"]
    columns["status"] = pd.Categorical.from_codes(c["end"], pd.Index([end.name.lower() for end in End]))
    columns |= {name: c[name] for name in COUNTS}
    for name, (nanoseconds, known) in zip(time_columns(), fixed_point_columns(c), strict=True):
        columns[name] = np.where(known, nanoseconds / 1e9, np.nan)
    return pd.DataFrame(columns)


def series_frame(run: Run) -> DataFrame:
    """One row a bin and engine, columns as in `timeseries.csv.gz`, unrounded."""
    import pandas as pd

    return pd.DataFrame(time_series(run)).rename(columns={"t": "t_s"})


def program_frame(run: Run) -> DataFrame | None:
    """One row a program, columns as in `programs.csv.gz`; None for a trace without programs."""
    import pandas as pd

    return None if run.table.programs is None else pd.DataFrame(program_rows(run))


def read_frame(path: Path) -> DataFrame:
    """A table that `servecast simulate --out` wrote."""
    import pandas as pd

    kinds = {"request_id": str, "session": str, "model": str, "tenant": str, "request_class": str}
    return pd.read_csv(path, dtype=kinds)


def summary_frame(data: dict[str, Any]) -> DataFrame:
    """The latencies of a `report.json` in milliseconds: a row a metric, a column a statistic."""
    import pandas as pd

    rows = {name: [data.get(f"{statistic}_{name}_ms") for statistic in STATISTICS] for name in LATENCIES}
    frame = pd.DataFrame.from_dict(rows, "index", columns=list(STATISTICS), dtype=float)
    return frame.rename_axis("ms")
