"""`kill -9` at any time, and the same command ends with the same ledger and the same files."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import servecast

COMMAND = [sys.executable, "-m", "servecast", "sweep", "sweep.yaml", "--workers", "2", "--out"]
LONGER = """\
base: {plan: plan.yaml, trace: generator.yaml, slo: slo.yaml}
grid:
  plan.pools[0].num_gpu_blocks_override: [4, 600, 4000]  # four blocks hold no request: those runs fail
  rate_scale: [1, 4]
  seed: [0, 1]
"""


def begun(out: str) -> subprocess.Popen[bytes]:
    here = {**os.environ, "PYTHONPATH": str(Path(servecast.__file__).parents[1])}  # another folder is current there
    return subprocess.Popen([*COMMAND, out], env=here, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def ended(ledger: Path) -> int:
    """Runs that have ended so far."""
    if not ledger.exists() or not ledger.stat().st_size:
        return 0
    with closing(sqlite3.connect(ledger)) as db:
        (count,) = db.execute("SELECT count(*) FROM runs WHERE status IN ('done', 'failed')").fetchone()
    return int(count)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.fixture
def uninterrupted(servecast: Any, in_process: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """The whole sweep into the folder `whole`, in this process; gives the exit code."""
    monkeypatch.setattr("servecast.planner.sweep.commands._executor", lambda *_: in_process())
    return lambda: servecast("sweep", "sweep.yaml", "--out", "whole").code


def test_killed_and_resumed(folder: Path, uninterrupted: Any, content: Any, children: Any) -> None:
    (folder / "sweep.yaml").write_text(LONGER)
    assert uninterrupted() == 1  # some runs failed
    luck = random.Random(4)
    marks = sorted(luck.sample(range(1, 11), 2))
    workers: list[int] = []
    for mark in marks:
        process = begun("killed")
        while ended(folder / "killed" / "ledger.sqlite") < mark:
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(luck.random() * 0.05)  # so that not every kill comes right after an entry
        workers += children(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert begun("killed").wait() == 1
    assert content(folder / "killed") == content(folder / "whole")
    assert len(workers) >= 2 and all(gone(pid) for pid in workers)


def test_a_killed_worker_is_replaced(folder: Path, uninterrupted: Any, content: Any, children: Any) -> None:
    (folder / "sweep.yaml").write_text(LONGER.replace("[4, 600, 4000]", "[600, 4000]"))
    assert uninterrupted() == 0
    process = begun("hurt")
    while ended(folder / "hurt" / "ledger.sqlite") < 4:
        time.sleep(0.005)
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    assert process.wait() == 0
    assert content(folder / "hurt") == content(folder / "whole")
