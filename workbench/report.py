"""A run in a notebook: tables, the report, and a picture of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..configs.slo import SLO
from ..configs.strict import read_mapping
from ..errors import InputError
from ..sim.report.report import build_report
from ..sim.report.terminal import table
from ..sim.report.write import prepare_folder, write_results
from ..sim.run import Run
from .frames import program_frame, read_frame, request_frame, series_frame, summary_frame

if TYPE_CHECKING:
    from pandas import DataFrame

FILES = ("report.json", "requests.csv.gz", "timeseries.csv.gz")


class Report:
    """What a run says. docs/output.md explains every key and column.

    data : the content of `report.json`. run : the run itself, None where the report was read from files.
    """

    def __init__(
        self,
        data: dict[str, Any],
        requests: Callable[[], DataFrame],
        timeseries: Callable[[], DataFrame],
        programs: Callable[[], DataFrame | None],
        run: Run | None = None,
    ) -> None:
        self.data, self.run = data, run
        self._requests, self._timeseries, self._programs = requests, timeseries, programs

    @classmethod
    def of(cls, run: Run, slo: SLO | None = None, warmup: float = 0.0) -> Report:
        """The report of a run. warmup : seconds of arrivals to leave out of the statistics (not of the tables)."""
        data = build_report(run, slo, warmup)
        return cls(data, lambda: request_frame(run), lambda: series_frame(run), lambda: program_frame(run), run)

    @classmethod
    def load(cls, folder: str | Path) -> Report:
        """What `servecast simulate --out` or `save` wrote. Raises `InputError` where a file is missing."""
        folder = Path(folder)
        for name in FILES:
            if not (folder / name).is_file():
                expected = f"a folder of `servecast simulate --out`, with {', '.join(FILES)}"
                raise InputError(str(folder), f"no {name} in it", expected)
        data = read_mapping(folder / FILES[0])
        if not isinstance(data.get("simulation"), dict):
            raise InputError(str(folder / FILES[0]), "no block `simulation`", "a report of servecast")
        requests, series, programs = folder / FILES[1], folder / FILES[2], folder / "programs.csv.gz"
        return cls(
            data, lambda: read_frame(requests), lambda: read_frame(series),
            lambda: read_frame(programs) if programs.is_file() else None,
        )  # fmt: skip

    def save(self, folder: str | Path) -> None:
        """Write the files of `servecast simulate --out`. Raises `InputError` for a report that was read from files."""
        if self.run is None:
            raise InputError(str(folder), "a report that was read from files", "one that `simulate` gave")
        prepare_folder(Path(folder))
        write_results(self.run, self.data, Path(folder))

    @property
    def name(self) -> str:
        """The plan's name."""
        return str(self.data["simulation"]["plan"])

    @cached_property
    def requests(self) -> DataFrame:
        """One row a request in order of submission; columns of `requests.csv.gz`, seconds and tokens."""
        return self._requests()

    @cached_property
    def timeseries(self) -> DataFrame:
        """One row a bin and engine; columns of `timeseries.csv.gz`, averages over the bin."""
        return self._timeseries()

    @cached_property
    def programs(self) -> DataFrame | None:
        """One row a program (docs/kv.md) with the columns of `programs.csv.gz`; None for a trace without programs."""
        return self._programs()

    @cached_property
    def summary(self) -> DataFrame:
        """Milliseconds: rows ttft, tpot, itl, e2el; columns mean, median, std and percentiles."""
        return summary_frame(self.data)

    def __repr__(self) -> str:
        return table(self.data)

    def _repr_html_(self) -> str:
        from .reprs import report_html

        return report_html(self)
