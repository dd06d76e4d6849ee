"""Every command in the documents is one, and pages that show a way from A to B are walked along, output included."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from servecast.cli import build_parser, main

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
WALKED = ["docs/tutorial.md", "docs/comparing.md", "docs/reports.md", "docs/imports.md", "docs/export.md"]
ELSEWHERE = {  # what a walk would take too long for, or needs more than a clone has
    "simulate --trace traces/samples/chat-sample.jsonl.gz --plan default --slo chat --rate-scale": "make demo's twin",
    "simulate --plan out/h100/plan.yaml": "tests/profiling: needs a profiled GPU",
    "profile ": "tests/profiling",
    "closed-loop ": "tests/profiling",
    "costmodel ": "tests/costmodels",
    "validate-table ": "tests/sim/test_bench.py: needs third-party data",
    "plan ": "tests/planner",
    "sweep ": "tests/sweep",
    "capacity ": "tests/sweep",
    "slo check slos.yaml --out out/slo": "tests/workbench/test_gate.py",
    "policies": "tests/workbench/test_policies_and_completion.py",
}


def commands(text: str) -> Iterator[list[str]]:
    """Words of every `servecast ...` line of code on a page, without the program's name."""
    for line in re.findall(r"^(?:    )?(servecast [^|]*?)$", text.replace("\\\n", " "), re.MULTILINE):
        words = shlex.split(line, comments=True)
        if words[1] not in ("forecasts", "reports", "itself", "lists"):  # a sentence
            yield words[1:]


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_commands_are_commands(page: Path) -> None:
    for words in commands(page.read_text()):
        build_parser().parse_args([word for word in words if word != "SOURCE..."] + ["x"] * ("SOURCE..." in words))


def test_every_command_is_run_somewhere() -> None:
    shown = [" ".join(words) for page in PAGES for words in commands(page.read_text())]
    walked = {" ".join(words) for name in WALKED for words in commands((ROOT / name).read_text())}
    assert len(shown) > 25
    missing = [line for line in shown if line not in walked and not line.startswith(tuple(ELSEWHERE))]
    assert not missing
    assert not [start for start in ELSEWHERE if not any(line.startswith(start) for line in shown)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what pages take for granted."""
    rows = [
        {"timestamp": 40 * i, "input_length": 200 + i % 90, "output_length": 5 + i % 30, "class": "ab"[i % 2]}
        for i in range(120)
    ]
    (tmp_path / "chat.jsonl.gz").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copy(ROOT / "configs" / "plans" / "default.yaml", tmp_path / "mine.yaml")
    shutil.copy(ROOT / "configs" / "plans" / "default.yaml", tmp_path / "plan.yaml")
    (tmp_path / "traces").symlink_to(ROOT / "traces")
    usage = {"gen_ai.usage.input_tokens": 90, "gen_ai.usage.output_tokens": 9}
    spans = [
        {
            "traceId": "t", "spanId": str(i), "startTimeUnixNano": str(10**18 + i * 10**8),
            "endTimeUnixNano": str(10**18 + i * 10**8 + 10**9),
            "attributes": [{"key": key, "value": {"intValue": str(value + i)}} for key, value in usage.items()],
        }
        for i in range(30)
    ]  # fmt: skip
    (tmp_path / "spans.jsonl").write_text(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def steps(text: str) -> Iterator[tuple[str, str, str]]:
    """What a page gives, in order: ("file", name, content), ("run", command, "") and ("shows", "", output)."""
    pattern = r"`([\w.-]+)`:\n\n```\w+\n(.*?)```|```text\n(.*?)```|^ {4}(servecast [^\n]*)$"
    for match in re.finditer(pattern, text, re.DOTALL | re.MULTILINE):
        name, content, output, command = match.groups()
        if name:
            yield "file", name, content
        elif output:
            yield "shows", "", output
        else:
            yield "run", command, ""


def without_figures(text: str) -> list[str]:
    """Lines with every number as #, signs and padding dropped."""
    return [re.sub(r"[+-]?\d[\d,.]*", "#", " ".join(line.split())) for line in text.splitlines()]


@pytest.mark.parametrize("name", WALKED)
def test_a_page_can_be_walked_along(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed, ran = "", 0
    for kind, word, content in steps((ROOT / name).read_text()):
        if kind == "file":
            (place / word).write_text(content)
        elif kind == "run":
            words, comment = shlex.split(word, comments=True)[1:], re.search(r"# exit code (\d)", word)
            assert main(words) == int(comment[1] if comment else 0), word
            ran += 1
            printed += capsys.readouterr().out
        else:
            there = without_figures(printed)
            assert not [line for line in without_figures(content) if line != "..." and line not in there], printed
            printed = ""
    assert ran == len(list(commands((ROOT / name).read_text())))
