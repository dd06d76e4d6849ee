"""`servecast plan`: a plan that `simulate` confirms, what is said when there is none, and mistakes in the input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

INVENTORY = """
model: llama-3.1-8b
gpus: {h100: {count: 3}, a10g: {count: 2}}
tensor_parallel_size: [1]
max_num_batched_tokens: [null]
"""
COLUMNS = ["--columns", "arrival=arrival,prompt_tokens=prompt_tokens,output_tokens=output_tokens"]
SLO = "objectives: [ttft p90 <= 1s, tpot p90 <= 40ms]\n"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A trace of 400 requests at 60 requests/s, an inventory and an SLO."""
    rows = [f"{i / 60:.4f},{300 + i * 37 % 600},{20 + i * 13 % 60}" for i in range(400)]
    (tmp_path / "trace.csv").write_text("\n".join(["arrival,prompt_tokens,output_tokens", *rows]) + "\n")
    (tmp_path / "inventory.yaml").write_text(INVENTORY)
    (tmp_path / "slo.yaml").write_text(SLO)
    return tmp_path


def words(folder: Path, *more: object) -> list[object]:
    inputs = ["--trace", folder / "trace.csv", "--slo", folder / "slo.yaml", "--inventory", folder / "inventory.yaml"]
    return ["plan", *inputs, *COLUMNS, "--no-cache", *more]


def test_simulate_takes_the_plan_and_says_the_same(servecast: Any, files: Path) -> None:
    out = files / "out"
    done = servecast(*words(files, "--json", "--pareto", "--out", out))
    report = json.loads(done.out)
    assert done.code == 0 and report["status"] == "planned"
    assert 0 < report["bound"] <= report["value"] == report["plan"]["usd_per_hour"]
    assert report["explanation"] and report["baselines"] and report["pareto"] and (out / "pareto.png").exists()
    assert report["intervals"].keys() == {"ttft p90 <= 1s", "tpot p90 <= 40ms"}
    again = servecast(
        "simulate", "--trace", files / "trace.csv", "--plan", out / "plan.yaml", "--slo", files / "slo.yaml",
        "--out", files / "run", *COLUMNS,
    )  # fmt: skip
    assert again.code == 0
    replayed = json.loads((files / "run" / "report.json").read_text())["slo"]["objectives"]
    assert [o["value"] for o in replayed] == [o["value"] for o in report["plan"]["objectives"]]


def test_infeasible_says_what_binds(servecast: Any, files: Path) -> None:
    (files / "inventory.yaml").write_text(INVENTORY.replace("count: 3", "count: 0"))
    done = servecast(*words(files))
    assert done.code == 1
    assert "no plan" in done.out and "% of the load at best" in done.out


def test_an_slo_that_no_replica_meets_alone(servecast: Any, files: Path) -> None:
    (files / "slo.yaml").write_text("objectives: [tpot p90 <= 1ms]\n")
    done = servecast(*words(files))
    assert done.code == 1
    assert "misses the SLO without any other request: tpot p90 <= 1ms (" in done.out


def test_what_cannot_be_rented_is_explained(servecast: Any, files: Path) -> None:
    """Kinds of replicas that no GPU can hold, by their reason; spare replicas that there is no room for."""
    (files / "inventory.yaml").write_text(INVENTORY.replace("[1]", "[3, 16]"))
    done = servecast(*words(files))
    assert done.code == 1
    assert "h100-tp3-pp1" in done.out and "divisor of 32" in done.out and "takes 16 GPUs, and there are 3" in done.out
    (files / "inventory.yaml").write_text(INVENTORY.replace("count: 3", "count: 2") + "spare: 3\n")
    done = servecast(*words(files, "--no-compare"))
    assert done.code == 1 and "3 to spare of each kind bind" in done.out


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("slo.yaml", "objectives: [ttft p99 <= 1s]\n", "500 requests, so that 5 do"),
        ("slo.yaml", "objectives: []\n", "none of them on the latency"),
        ("slo.yaml", "objectives: [goodput >= 95%]\n", "every request is good"),
        ("slo.yaml", "objectives: [goodput >= 95]\n", "a share of the requests"),
        ("slo.yaml", SLO + "classes: {chat: {ttft: 1s}}\n", "request class of this trace"),
        ("trace.csv", "arrival,prompt_tokens,output_tokens\n" + "0,9,9\n" * 400, "400 requests arrive at once"),
        (
            "inventory.yaml",
            INVENTORY.replace("llama-3.1-8b", "opt-13b") + "max_model_len: 500\n",
            "requests of the trace",
        ),
        ("inventory.yaml", "model: llama-3.1-8b\ngpus: {h100: {count: 0}}\n", "not one GPU in all"),
        ("inventory.yaml", "model: llama-3.1-8b\ngpus: {ascend-910c: {count: 2}}\n", "price_per_hour"),
        ("inventory.yaml", "model: llama-3.1-8b\ngpus: {h10: {count: 2}}\n", "h100"),
        ("inventory.yaml", INVENTORY + "role: [prefill]\n", "neither serves a request alone"),
        ("inventory.yaml", INVENTORY + "links: {netwrk: {bandwidth: 1}}\n", "network"),
    ],
)
def test_mistakes_are_named(servecast: Any, files: Path, file: str, text: str, said: str) -> None:
    (files / file).write_text(text)
    done = servecast(*words(files))
    assert done.code == 2 and said in done.err and file in done.err
    assert "Traceback" not in done.err and not done.out


def test_a_missing_solver_is_named(servecast: Any, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servecast.planner.milp.find_spec", lambda name: None)
    done = servecast(*words(files, "--solver", "highs"))
    assert done.code == 2 and "highspy is not installed" in done.err
