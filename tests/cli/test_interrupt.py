"""Ctrl-C: what is finished is readable, the report says so, and nothing half-written stays."""

from __future__ import annotations

import gzip
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from servecast.sim import commands

LONG = """\
kind: poisson
rate: 40
requests: 2000000
prompt_tokens: {constant: {value: 400}}
output_tokens: {constant: {value: 200}}
"""


def test_ctrl_c_in_a_long_run(folder: Path) -> None:
    (folder / "long.yaml").write_text(LONG)
    screen, terminal = pty.openpty()  # with a terminal for standard error, progress tells when the run is under way
    words = ["simulate", "--trace", "long.yaml", "--plan", "default", "--slo", "slo.yaml", "--out", "out"]
    process = subprocess.Popen(
        [sys.executable, "-m", "servecast", *words],
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    os.close(terminal)
    shown = b""
    while b"x real time" not in shown:
        shown += os.read(screen, 4096)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    while True:
        try:
            text = os.read(screen, 4096)
        except OSError:  # the other side is closed
            break
        shown += text
    os.close(screen)

    assert process.returncode == 2
    assert b"Traceback" not in shown and b"2,000,000 requests" in shown
    assert b"interrupted after" in shown and b"what is finished is in out" in shown
    assert "time to first token" in out
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        "report.json",
        "requests.csv.gz",
        "timeseries.csv.gz",
    ]
    report = json.loads((folder / "out" / "report.json").read_text())
    assert report["simulation"]["interrupted"] and all(report["simulation"]["invariants"].values())
    assert 0 < report["completed"] < report["num_prompts"] < 2_000_000
    assert report["num_prompts"] == report["completed"] + report["unfinished"]
    rows = gzip.decompress((folder / "out" / "requests.csv.gz").read_bytes()).decode().splitlines()
    assert len(rows) == report["num_prompts"] + 1
    assert sum(",finished," in row for row in rows) == report["completed"]


def interrupt_call(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C when `simulate` starts its run with this number."""
    calls = 0
    run = commands._run

    def counted(*words: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            raise KeyboardInterrupt
        return run(*words)

    monkeypatch.setattr(commands, "_run", counted)


def test_before_anything_is_finished(simulate: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_call(1, monkeypatch)
    outcome = simulate()
    assert (outcome.code, outcome.out, outcome.err) == (2, "", "servecast: interrupted\n")
    assert not (folder / "out").exists()


def test_before_anything_that_counts(simulate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the warm-up leaves nothing to report; that is no mistake in `--warmup`."""
    run = commands._run

    def stopped(*words: Any) -> Any:
        result = run(*words)
        result.interrupted = True
        return result

    monkeypatch.setattr("servecast.sim.commands._check_together", lambda *_: None)
    monkeypatch.setattr(commands, "_run", stopped)
    outcome = simulate("--warmup", 60)
    assert (outcome.code, outcome.err) == (2, "servecast: interrupted\n")


def test_between_seeds_the_finished_ones_count(simulate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_call(3, monkeypatch)
    outcome = simulate("--trace", "generator.yaml", "--seeds", 5, "--json")
    report = json.loads(outcome.out)
    assert outcome.code == 2 and outcome.err.startswith("interrupted after 60 requests")
    assert report["confidence"]["seeds"] == 2 and report["simulation"]["interrupted"]


def test_while_writing_nothing_half_written_stays(simulate: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("servecast.sim.report.write._request_lines", interrupted)
    outcome = simulate()
    assert (outcome.code, outcome.err) == (2, "servecast: interrupted\n")
    left = [path.name for path in (folder / "out").iterdir()]
    assert left == ["report.json"] and json.loads((folder / "out" / "report.json").read_text())
