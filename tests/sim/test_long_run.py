"""Ten million requests in 4 GB: a tenth of that load in a tenth of that memory."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

LONG = Path(__file__).parents[2] / "bench/long.py"
LIMIT = 4096 / 10  # MB


def test_a_tenth_of_seven_months_takes_a_tenth_of_the_memory(tmp_path):
    """What grows with the requests are the trace's columns; results go to files. The package itself counts."""
    trace = runpy.run_path(str(LONG))["spec"](tmp_path, share=0.1)
    command = [sys.executable, "-m", "servecast", "simulate", "--trace", str(trace), "--plan", "bench-8"]
    command += ["--checkpoint", "20", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, said
    peak = usage.ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
    assert peak < LIMIT, f"{peak:.0f} MB"
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"report.json", "requests.csv.gz"}
