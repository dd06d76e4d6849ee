"""docs/output.md names every key and column that a run writes, and no other."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "output.md"
TRACE = "".join(
    json.dumps(
        {
            "timestamp": 20 * i, "input_length": 900, "output_length": 1 + i % 300, "class": "ab"[i % 2], "model": "m",
            "tenant": f"t{i % 3}", "session": f"s{i % 7}", "priority": i % 2,
        }
    ) + "\n"
    for i in range(400)
)  # fmt: skip
SLO = "goodput: {ttft: 20ms}\nobjectives: [ttft p99 <= 1ms, tpot p99 <= 1ms, goodput >= 10%]\n"


def documented(section: str) -> list[str]:
    """The first cells of the tables below a heading, with `{a,b}` written out."""
    text = PAGE.read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    found = []
    for cell in re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE):
        parts = [part.split(",") for part in re.split(r"[{}]", cell)]
        found += ["".join(chosen) for chosen in product(*parts)]
    assert len(found) == len(set(found)) > 5
    return found


def paths(value: Any, at: str = "") -> Iterator[str]:
    """The dotted keys of all leaves; what is empty is a leaf."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from paths(inner, f"{at}.{key}" if at else key)
    elif isinstance(value, list) and value:
        for inner in value:
            yield from paths(inner, at + "[]")
    else:
        yield at


def pattern(key: str) -> re.Pattern[str]:
    """A documented key: `*` is any name in the middle, and everything that is left at the end."""
    parts = re.escape(key).split(r"\*")
    return re.compile("[^.]+".join(parts[:-1]) + ".+" + parts[-1] if key.endswith("*") else "[^.]+".join(parts))


@pytest.fixture
def written(simulate: Any, folder: Path) -> Path:
    """The files of a run that has everything: labels, misses, retries, and two seeds."""
    (folder / "trace.jsonl").write_text(TRACE)
    (folder / "slo.yaml").write_text(SLO)
    with (folder / "plan.yaml").open("a") as plan:
        plan.write("    max_num_seqs: 20\n")
    assert simulate("--seeds", 2).code == 0
    return folder / "out"


def compare(file: Path, rare: str = "-") -> None:
    """The keys of a report against its section; those that begin with `rare` need not be there."""
    there = set(paths(json.loads(file.read_text())))
    keys = documented(file.name)
    unknown = {path for path in there if not any(pattern(key).fullmatch(path) for key in keys)}
    assert not unknown, "written and not documented"
    missing = {key for key in keys if not any(pattern(key).fullmatch(path) for path in there)}
    assert not {key for key in missing if not key.startswith(rare)}, "not written"


def test_the_report(written: Path) -> None:
    compare(written / "report.json")


def test_the_plan(servecast: Any, folder: Path) -> None:
    """Of a search with all that may be asked: kinds that are out, that miss, and that were never measured."""
    (folder / "trace.jsonl").write_text(TRACE)
    (folder / "slo.yaml").write_text("objectives: [ttft p90 <= 200ms, tpot p90 <= 20ms]\n")
    (folder / "inventory.yaml").write_text(
        "model: llama-3.1-8b\ngpus: {h100: {count: 4}, b200: {count: 1, price_per_hour: 99}, t4: {count: 1}}\n"
        "tensor_parallel_size: [1]\nmax_num_batched_tokens: [null]\n"
    )
    inputs = [item for name in ("slo", "inventory") for item in (f"--{name}", folder / f"{name}.yaml")]
    extras = ["--objective", "goodput", "--stress", "1.2:1.2", "--pareto", "--exhaustive", "--no-cache", "--limit", 150]
    done = servecast("plan", "--trace", folder / "trace.jsonl", *inputs, *extras, "--out", folder / "out")
    assert done.code == 0, done.err
    compare(folder / "out" / "plan.json", rare="candidates[].share_by_replicas_of_pool")


@pytest.mark.parametrize("name", ["requests.csv.gz", "timeseries.csv.gz"])
def test_the_columns_in_their_order(written: Path, name: str) -> None:
    header = gzip.decompress((written / name).read_bytes()).decode().split("\n")[0]
    assert header.split(",") == documented(name)


def test_the_states_of_a_request_and_the_verdicts() -> None:
    """Words that a script may compare with."""
    from servecast.sim.records import End
    from servecast.sim.report import overload

    text = PAGE.read_text()
    assert all(f"`{end.name.lower()}`" in text for end in End)
    verdicts = set(re.findall(r'"verdict": "([^"]+)"', Path(overload.__file__).read_text()))
    assert len(verdicts) == 4 and all(f"`{verdict}`" in text for verdict in verdicts)
