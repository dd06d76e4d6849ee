"""A user at the command line: run a command in this process, with files written for the occasion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from servecast.cli import main

PLAN = """\
model: llama-3.1-8b
engine: vllm-0.19
pools:
  - name: chat
    hardware: h100
    max_model_len: 32768
"""
TRACE = """\
{"timestamp": 0, "input_length": 700, "output_length": 5, "class": "chat"}
{"timestamp": 1000, "input_length": 90, "output_length": 40, "class": "chat"}
{"timestamp": 2500, "input_length": 2000, "output_length": 1, "class": "api"}
"""
GENERATOR = """\
kind: poisson
rate: 5
requests: 60
prompt_tokens: {geometric: {mean: 300}}
output_tokens: {geometric: {mean: 40}}
"""
LOOP = """\
kind: closed_loop
users: 4
requests: 60
think_time: {exponential: {mean: 0.2}}
prompt_tokens: {geometric: {mean: 300}}
output_tokens: {geometric: {mean: 40}}
"""
SLO = "goodput: {ttft: 1s, tpot: 50ms}\nobjectives: [ttft p99 <= 2s]\n"
SAMPLE = Path(__file__).parents[2] / "traces" / "samples" / "chat-sample.jsonl.gz"


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def servecast(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `servecast` with some words, in this process."""

    def run(*words: object) -> Outcome:
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # argparse leaves that way, as it does for --help
            code = int(stop.code or 0)
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a small trace, two generators, a plan and an SLO that go well together."""
    monkeypatch.chdir(tmp_path)
    files = {"trace.jsonl": TRACE, "plan.yaml": PLAN, "slo.yaml": SLO, "generator.yaml": GENERATOR, "loop.yaml": LOOP}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def simulate(servecast: Command, folder: Path) -> Command:
    """`servecast simulate` on those files with `--out out`; flags given later win."""

    def run(*flags: object) -> Outcome:
        files = ["--trace", "trace.jsonl", "--plan", "plan.yaml", "--slo", "slo.yaml", "--out", "out"]
        return servecast("simulate", *files, *flags)

    return run
