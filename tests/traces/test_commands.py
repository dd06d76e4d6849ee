"""The `trace` sub-commands as a user runs them: text, JSON, files, and errors for flags that contradict."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from servecast.errors import InputError
from servecast.traces.commands import add_arguments
from servecast.traces.load import load

SAMPLES = Path(__file__).parents[2] / "traces" / "samples"
SAMPLE = str(SAMPLES / "chat-sample.jsonl.gz")
BURSTGPT = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n" + "".join(
    f"{5 + i},{'GPT-4' if i % 2 else 'ChatGPT'},{100 + i},{0 if i == 3 else 20},{120 + i},API log\n" for i in range(10)
)


def run(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser.add_subparsers(required=True))
    args = parser.parse_args(["trace", *map(str, words)])
    code: Any = args.handler(args)
    assert isinstance(code, int)
    return code


def test_describe_as_text_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("describe", SAMPLE) == 0
    assert "chat-sample.jsonl.gz (servecast): 9,970 requests" in capsys.readouterr().out
    assert run("describe", SAMPLE, "--json", "--where", "class=api", "--limit", "100", "--rate-scale", "2") == 0
    description = json.loads(capsys.readouterr().out)
    assert description["requests"] == 100 and len(description["groups"]) == 1


def test_convert_merge_and_filter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "b.csv").write_text(BURSTGPT)
    assert run("convert", tmp_path / "b.csv", "--out", tmp_path / "b.jsonl", "--to", "mooncake", "--json") == 0
    counts = json.loads(capsys.readouterr().out)
    assert (counts["requests"], counts["failed"], counts["dropped"]) == (9, 1, 1)
    assert load(tmp_path / "b.jsonl").source.format == "mooncake"
    assert (
        run("convert", tmp_path / "b.csv", tmp_path / "b.jsonl", "--label", "tenant", "--out", tmp_path / "c.gz") == 0
    )
    merged = load(tmp_path / "c.gz")
    assert merged.tenant is not None and set(merged.tenant) == {"b.csv", "b.jsonl"} and len(merged) == 18
    flags = ["--keep-failed", "--jitter", "3", "--where", "model=GPT-4", "--window", "0:6"]
    assert run("convert", tmp_path / "b.csv", *flags, "--out", tmp_path / "d.csv", "--to", "burstgpt") == 0
    assert load(tmp_path / "d.csv", keep_failed=True).prompt_tokens.tolist() == [101, 103, 105]
    assert "wrote" in capsys.readouterr().out


def test_fit_and_generate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", SAMPLE, "--out", tmp_path / "fit.yaml") == 0
    assert "2 streams" in capsys.readouterr().out
    assert run("fit", SAMPLE) == 0
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load((tmp_path / "fit.yaml").read_text())
    assert run("fit", SAMPLE, "--json") == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "burst"
    assert run("generate", tmp_path / "fit.yaml", "--seed", "3", "--out", tmp_path / "g.jsonl.gz", "--json") == 0
    assert json.loads(capsys.readouterr().out)["requests"] == len(load(tmp_path / "g.jsonl.gz"))
    assert load(tmp_path / "g.jsonl.gz").fingerprint() == load(tmp_path / "fit.yaml", seed=3).fingerprint()


def test_generating_the_sample_again(tmp_path: Path) -> None:
    assert run("generate", SAMPLES / "chat-sample.yaml", "--seed", "7", "--out", tmp_path / "s.jsonl") == 0
    assert load(tmp_path / "s.jsonl").fingerprint() == load(SAMPLE).fingerprint()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["describe", SAMPLE, "--seed", "3"], "--seed: given for the recorded trace"),
        (["describe", SAMPLE, "--jitter", "3"], "has a fraction, but jitter"),
        (
            ["describe", SAMPLE, "--columns", "arrival=a,prompt_tokens=b,output_tokens=c"],
            "columns given for JSON lines",
        ),
        (["describe", SAMPLE, "--window", "60"], "--window: '60'; expected START:END"),
        (["describe", SAMPLE, "--window", "a:b"], "--window: 'a:b'; expected START:END"),
        (["describe", SAMPLE, "--window", "60:30"], "0 <= start < end"),
        (["describe", SAMPLE, "--where", "clas=api"], "did you mean 'class'"),
        (["convert", SAMPLE, "--label", "tenant", "--out", "x.jsonl"], "--label: given for one trace"),
        (["describe", "no-such-file.csv"], "no such file"),
    ],
)
def test_contradicting_and_wrong_flags(words: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        run(*words)
    assert message in str(caught.value)


def test_a_failed_generate_leaves_no_file(tmp_path: Path) -> None:
    lengths = "prompt_tokens: {constant: {value: 5}}\noutput_tokens: {constant: {value: 5}}\n"
    (tmp_path / "loop.yaml").write_text("kind: closed_loop\nusers: 2\nrequests: 5\n" + lengths)
    with pytest.raises(InputError, match="closed loop"):
        run("generate", tmp_path / "loop.yaml", "--out", tmp_path / "x.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["loop.yaml"]


def test_adding_the_commands_imports_nothing_heavy() -> None:
    import subprocess
    import sys

    code = "import sys; import servecast.traces.commands; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"numpy", "pandas", "scipy", "yaml"} & set(loaded.split())
