"""Thirty mistakes that people make: each is exit code 2, one line that names place and expectation, and no new file."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from servecast.cli import main

MISTAKES = [
    ("simulate --trace trce.jsonl --plan plan.yaml", "no such file.*did you mean 'trace.jsonl'"),
    ("simulate --trace trace.jsonl --plan defualt", "no plan is called 'defualt'.*did you mean 'default'"),
    ("simulate --trace trace.jsonl --plan plan.yaml --slo chatt", "no SLO is called 'chatt'.*did you mean 'chat'"),
    ("simulate --trace trace.jsonl --plan plan.yaml --limt 5", "no flag is called '--limt'.*did you mean '--limit'"),
    ("simulate --trace trace.jsonl --plan plan.yaml --rate-scale fast", "'fast'; expected a finite number"),
    ("simulate --trace trace.jsonl --plan plan.yaml --warmup 900", "at most .* s, the span of the trace's arrivals"),
    ("simulate --trace trace.jsonl --plan plan.yaml --plots", "--plots: given without --out"),
    ("simulate --trace plan.yaml --plan plan.yaml", "kind: missing; expected a generator of requests"),
    ("simulat --trace trace.jsonl", "no command is called 'simulat'.*did you mean 'simulate'"),
    ("check typo.yaml", "pools.0..replica: unknown key.*did you mean 'replicas'"),
    ("check big.yaml", "800000; expected at most 131072, the positions of"),
    ("trace describe log.csv", "no known trace format.*or any CSV with a --columns mapping"),
    ("trace describe log.csv --columns arrival=when,prompt_tokens=in,output_tokens=out", "when"),
    ("trace convert trace.jsonl --to moncake --out x.jsonl", "no choice is called 'moncake'.*did you mean 'mooncake'"),
    ("capacity --trace trace.jsonl --plan plan.yaml --slo nothing.yaml", "objectives: none; expected at least one"),
    ("sweep sweep.yaml --out new", "grid.*rate_scale|unknown key"),
    ("plan --trace trace.jsonl --slo chat", "--inventory: missing"),
    ("compare done", "one run; expected two or more"),
    ("compare done nowhere", "nowhere: no such file or folder"),
    ("compare done other", "replays another trace"),
    ("report nowhere", "no report.json in it; expected a folder of `servecast simulate --out`"),
    ("report done --window 9:5", "--window: '9:5'; expected START:END in seconds"),
    ("report done --epoch 5", "--epoch: given without --openmetrics"),
    ("slo check slos.yaml", r"objectives.0.: no metric is called 'tttf'.*did you mean 'ttft'"),
    ("slo check nowhere.yaml", "no such file"),
    ("slo check slos.yaml --case chta", "no case of this file is called 'chta'.*did you mean 'chat'|no metric"),
    ("slo accept trace.jsonl", "not|mapping|unknown key"),
    ("export plan.yaml", "--model-id: missing"),
    ("export plan.yaml --to kubernets", "no choice is called 'kubernets'.*did you mean 'kubernetes'"),
    ("export sglang.yaml --model-id a/b", "engine: sglang-0.5; expected a preset of vLLM"),
    ("policies moncake", "no policy is called 'moncake'.*did you mean 'mooncake'"),
    ("completion powershell", "no command is called 'powershell'.*expected one of bash, fish, zsh"),
]


@pytest.fixture
def place(tmp_path: Path, trace: Path, plan: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files with a mistake each, and some without."""

    def write(name: str, data: object) -> None:
        (tmp_path / name).write_text(yaml.safe_dump(data))

    pool = plan["pools"][0]
    (tmp_path / "trace.jsonl").write_text(trace.read_text())
    (tmp_path / "log.csv").write_text("ts,in,out\n0,10,5\n1,10,5\n")
    write("plan.yaml", plan)
    write("typo.yaml", {**plan, "pools": [{**pool, "replica": 2}]})
    write("big.yaml", {**plan, "pools": [{**pool, "max_model_len": 800000}]})
    write("sglang.yaml", {**plan, "engine": "sglang-0.5"})
    write("nothing.yaml", {"goodput": {"ttft": "1s"}})
    write("sweep.yaml", {"base": {"trace": "trace.jsonl", "plan": "plan.yaml"}, "grid": {"rate_scal": [1, 2]}})
    case = {"name": "chat", "plan": "plan.yaml", "trace": "trace.jsonl", "objectives": ["tttf p99 <= 1s"]}
    write("slos.yaml", {"cases": [case]})
    (tmp_path / "done").symlink_to(folder)
    other = json.loads((folder / "report.json").read_text())
    other["simulation"]["trace_fingerprint"] = "0123456789abcdef"
    (tmp_path / "other").mkdir()
    for name in ("requests.csv.gz", "timeseries.csv.gz"):
        (tmp_path / "other" / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "other" / "report.json").write_text(json.dumps(other))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_are_thirty() -> None:
    assert len({command for command, _ in MISTAKES}) >= 30


@pytest.mark.parametrize(("command", "message"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_a_mistake_is_named(command: str, message: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(place.rglob("*"))
    try:
        code = main(shlex.split(command))
    except SystemExit as stopped:  # argparse's way
        code = int(stopped.code or 0)
    shown = capsys.readouterr()
    assert code == 2 and re.search(message, shown.err) and len(shown.err.strip().splitlines()) == 1, shown.err
    assert "Traceback" not in shown.err and "expected" in shown.err
    assert sorted(place.rglob("*")) == before
