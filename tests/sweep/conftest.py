"""A small sweep on files written for the occasion, and executors that do as a test wants."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from servecast.planner.sweep.ledger import Ledger
from servecast.planner.sweep.run import attempt
from servecast.planner.sweep.spec import load_sweep
from servecast.planner.sweep.sweep import Sweep, open_ledger, prepare

PLAN = """\
model: llama-3.1-8b
engine: vllm-0.19
pools:
  - name: chat
    hardware: h100
    replicas: 2
    max_model_len: 8192
"""
GENERATOR = """\
kind: poisson
rate: 20
requests: 120
prompt_tokens: {geometric: {mean: 300}}
output_tokens: {geometric: {mean: 40}}
"""
SLO = "goodput: {ttft: 1s, tpot: 50ms}\nobjectives: [ttft p99 <= 2s, goodput >= 90%]\n"
SWEEP = """\
base: {plan: plan.yaml, trace: generator.yaml, slo: slo.yaml}
grid:
  plan.router: [least_outstanding, round_robin]
  rate_scale: [1, 4]
  seed: [0, 1]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a plan, a generator, an SLO and a sweep of eight runs over them."""
    monkeypatch.chdir(tmp_path)
    files = {"plan.yaml": PLAN, "generator.yaml": GENERATOR, "slo.yaml": SLO, "sweep.yaml": SWEEP}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


class InProcess:
    """An executor without workers: it does its jobs when asked for results, the last one first if `backwards`.

    fates : by settings' seed, outcomes that come instead of the true one, first to last.
    """

    def __init__(self, slots: int = 1, backwards: bool = False, fates: dict[int, list[Any]] | None = None) -> None:
        self.slots, self.fates, self._backwards = slots, fates or {}, backwards
        self._jobs: list[Any] = []
        self.attempts: list[int] = []

    def submit(self, job: Any) -> None:
        assert len(self._jobs) < self.slots
        self._jobs.append(job)

    def wait(self) -> list[tuple[Any, Any]]:
        job = self._jobs.pop(-1 if self._backwards else 0)
        self.attempts.append(job.settings.seed)
        fates = self.fates.get(job.settings.seed)
        fate = fates.pop(0) if fates else attempt(job)
        if isinstance(fate, BaseException):
            raise fate
        return [(job, fate)]

    def close(self) -> None:
        pass


@pytest.fixture
def in_process() -> type[InProcess]:
    """The executor."""
    return InProcess


@pytest.fixture
def sweep_with(folder: Path) -> Iterator[Callable[..., Ledger]]:
    """Run a sweep's file into a folder with an executor; gives the ledger, open."""
    opened = []

    def run(executor: Any, out: str = "out", retry_failed: bool = False, **settings: Any) -> Ledger:
        prepared = prepare(load_sweep(Path("sweep.yaml")))
        while opened:
            opened.pop().close()
        opened.append(open_ledger(prepared, Path(out), retry_failed))
        Sweep(prepared, opened[-1], Path(out), **settings).run(executor)
        return opened[-1]

    yield run
    for ledger in opened:
        ledger.close()


def dump(ledger: Path) -> str:
    """Everything a ledger says, as SQL."""
    with closing(sqlite3.connect(ledger)) as db:
        return "\n".join(db.iterdump())


@pytest.fixture
def content() -> Callable[[Path], dict[str, Any]]:
    """A sweep's folder: its ledger as SQL, its other files as bytes."""

    def read(out: Path) -> dict[str, Any]:
        files = {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}
        del files["ledger.sqlite"], files[".lock"]
        return {"ledger": dump(out / "ledger.sqlite"), **files}

    return read


@pytest.fixture
def children() -> Callable[[int], list[int]]:
    """The processes that a process has started."""

    def of(pid: int) -> list[int]:
        return [
            int(word)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for word in (task / "children").read_text().split()
        ]

    return of
