"""A user at the command line, with files written for the occasion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a small trace, two generators, a plan and an SLO that go well together."""
    monkeypatch.chdir(tmp_path)
    files = {"trace.jsonl": TRACE, "plan.yaml": PLAN, "slo.yaml": SLO, "generator.yaml": GENERATOR, "loop.yaml": LOOP}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def simulate(servecast: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    """`servecast simulate` on those files with `--out out`; flags given later win."""

    def run(*flags: object) -> Any:
        files = ["--trace", "trace.jsonl", "--plan", "plan.yaml", "--slo", "slo.yaml", "--out", "out"]
        return servecast("simulate", *files, *flags)

    return run
