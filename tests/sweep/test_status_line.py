"""The progress line: for people at a terminal, and for nobody else."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from servecast.planner.sweep import status_line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_sweep_shows_a_bar_with_the_time_to_go(
    servecast: Any, in_process: Any, folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("servecast.planner.sweep.commands._executor", lambda *_: in_process())
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert servecast("sweep", "sweep.yaml", "--out", "out").code == 0
    shown = sys.stderr.getvalue().split("\r")
    assert shown[1].startswith(f"[{'.' * 30}] 0 of 8 runs, 0 failed, 1 running")
    assert shown[5].startswith(f"[{'#' * 15}{'.' * 15}] 4 of 8 runs, 0 failed, 1 running, ")
    assert shown[5].rstrip().endswith(" s to go")
    assert shown[-1] == "" and shown[-2].strip() == ""  # wiped in the end


def test_the_time_to_go_counts_this_sitting_only(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 110.0])
    monkeypatch.setattr(status_line.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(sys, "stderr", Terminal())
    line = status_line.StatusLine()
    line.bar(60, 50, 100, "runs")  # ten in ten seconds, forty to go
    assert sys.stderr.getvalue().endswith("60 of 100 runs, 40 s to go")


def test_a_pipe_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    line = status_line.StatusLine()
    line.show("something")
    line.close()
    assert sys.stderr.getvalue() == ""
