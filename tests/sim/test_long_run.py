"""Ten million requests in 4 GB: a tenth of that load in a tenth of that memory."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

LONG = Path(__file__).parents[2] / "bench/long.py"
LIMIT = 4096 / 10  # MB
# A child is born with its parent's peak: between this process and the one to be measured there must be a small one.
LAUNCH = """
import resource, subprocess, sys
code = subprocess.run([sys.executable, "-m", "servecast", *sys.argv[1:]], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def test_a_tenth_of_seven_months_takes_a_tenth_of_the_memory(tmp_path):
    """What grows with the requests are the trace's columns; results go to files. The package itself counts."""
    trace = runpy.run_path(str(LONG))["spec"](tmp_path, share=0.1)
    flags = ["simulate", "--trace", trace, "--plan", "bench-8", "--checkpoint", "20", "--out", tmp_path / "out"]
    done = subprocess.run([sys.executable, "-c", LAUNCH, *map(str, flags)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout) / (1024**2 if sys.platform == "darwin" else 1024)
    assert peak < LIMIT, f"{peak:.0f} MB"
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"report.json", "requests.csv.gz"}
