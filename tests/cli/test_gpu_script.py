"""`make gpu` in pieces: what is done is not done again, what ran out of time goes on, what failed comes last."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "bench" / "gpu.py"


@pytest.fixture
def gpu(monkeypatch):
    spec = importlib.util.spec_from_file_location("bench_gpu", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look themselves up
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "lacking", lambda: "")
    return module


def steps(gpu, log: Path, **codes: int) -> list:
    """Steps that note their name and arguments in `log` and end with a code."""
    note = "import sys; open(sys.argv[1], 'a').write(' '.join(sys.argv[2:]) + chr(10)); sys.exit(int(sys.argv[3]))"
    return [
        gpu.Step(name, ("-c", note, str(log), name, str(code)), minutes=3.0, limit="--budget", keeps=False)
        for name, code in codes.items()
    ]


def test_what_is_left_is_done_and_failures_come_last(gpu, tmp_path, monkeypatch, capsys):
    log = tmp_path / "log"

    def call(minutes=9.5, **codes):
        log.write_text("")
        monkeypatch.setattr(gpu, "STEPS", steps(gpu, log, **codes))
        monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "out"), "--minutes", str(minutes)])
        code = gpu.main()
        return code, [line.split()[0] for line in log.read_text().splitlines()]

    assert call(a=0, b=7, c=gpu.UNFINISHED) == (gpu.UNFINISHED, ["a", "b", "c"])
    assert "FAILED with exit code 7" in capsys.readouterr().out
    assert call(minutes=0.5, a=0, b=0, c=0) == (gpu.UNFINISHED, [])  # too little time to begin anything
    assert call(a=0, b=7, c=gpu.UNFINISHED) == (gpu.UNFINISHED, ["c", "b"])
    assert call(a=0, b=0, c=0) == (0, ["c", "b"])
    assert call(a=0, b=0, c=0) == (0, [])


def test_a_step_is_told_how_long_it_has_and_stopped_when_that_is_over(gpu, tmp_path):
    log = tmp_path / "log"
    (step,) = steps(gpu, log, a=0)
    assert gpu.run(step, 2.5, 3.0, tmp_path) == 0
    assert log.read_text() == "a 0 --budget 2.50\n"
    sleeper = gpu.Step("sleeper", ("-c", "import time; print('on'); time.sleep(60)"), 1.0, keeps=False)
    assert gpu.run(sleeper, 0.5, 0.02, tmp_path) < 0
    assert (tmp_path / "sleeper.log").read_text() == "on\n"


def test_a_step_that_fills_its_time_is_done_when_it_has_had_it(gpu, tmp_path):
    ledger = gpu.Ledger(tmp_path)
    step = gpu.Step("profile", (), 8.0, "--budget", fills=True)
    ledger.book(step, 0, 5.0)
    assert gpu.Ledger(tmp_path).left(step) == 3.0
    ledger.book(step, 2, 1.0)
    assert gpu.Ledger(tmp_path).left(step) == 3.0  # it had an error, which is no progress
    ledger.book(step, 0, 3.5)
    assert gpu.Ledger(tmp_path).left(step) == 0.0 and not ledger.failed


def test_a_closed_loop_that_missed_its_limits_has_been_run(gpu, tmp_path):
    ledger = gpu.Ledger(tmp_path)
    (step,) = [step for step in gpu.STEPS if step.name == "closed-loop"]
    ledger.book(step, gpu.NOT_ACCEPTED, 6.0)
    assert not ledger.left(step) and not ledger.failed


def test_every_step_fits_into_one_run(gpu):
    assert {"attention", "layers", "closed-loop"} < {step.name for step in gpu.STEPS}
    assert all(step.limit or step.minutes <= 9.5 for step in gpu.STEPS)
    assert len({step.name for step in gpu.STEPS}) == len(gpu.STEPS)
    assert all((SCRIPT.parents[1] / word).exists() for step in gpu.STEPS for word in step.words if word.endswith(".py"))
