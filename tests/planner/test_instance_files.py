"""`servecast plan --instance`: files in, results out, and mistakes named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

OWN = Path(__file__).parents[2] / "configs" / "planner-instances"
NODES = [{"count": 2, "throughput_tokens_per_s_by_layers_held": {"1": 10.0, "2": 6.0}}]


def test_every_result_has_value_bound_gap_and_seconds(servecast: Any, tmp_path: Path) -> None:
    problems = [
        {"name": "a", "layers": 2, "node_types": NODES, "published_note": "kept beside the problem"},
        {"name": "b", "layers": 3, "node_types": NODES},
    ]
    (tmp_path / "two.json").write_text(json.dumps(problems))
    done = servecast("plan", "--instance", tmp_path / "two.json", "--json")
    results = json.loads(done.out)
    assert done.code == 0 and [result["name"] for result in results] == ["a", "b"]
    for result in results:
        assert {"value", "bound", "gap", "seconds", "status", "nodes"} <= result.keys()
    assert results[0]["value"] == 12.0  # both nodes hold both layers
    assert results[1]["value"] == 6.0  # one of them must hold two


@pytest.mark.parametrize("file", sorted(path.name for path in OWN.glob("*.json")))
def test_our_own_files_print_a_table(servecast: Any, file: str) -> None:
    done = servecast("plan", "--instance", OWN / file, "--time-limit", 60)
    assert done.code == 0 and "0.00%" in done.out and "optimal" in done.out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("[1]", "expected gpus"),
        ('{"a": 1}', "keys a"),
        ('{"layers": 2, "node_types": 3}', "x.json: x.node_types"),
        ('[{"name": "n", "layers": 2.5, "node_types": []}]', "n.layers"),
        ('{"instance": {"gpus": {}}}', "missing"),
    ],
)
def test_bad_files_end_with_2_and_name_the_place(servecast: Any, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "x.json").write_text(text)
    done = servecast("plan", "--instance", tmp_path / "x.json", "--json")
    assert done.code == 2 and words in done.err and "Traceback" not in done.err and not done.out


def test_bad_flags_end_with_2(servecast: Any) -> None:
    for words in (["--time-limit", "0"], ["--solver", "high"], ["--instance", "nowhere.json"]):
        done = servecast("plan", "--instance", OWN / "mix.json", *words)
        assert done.code == 2 and done.err.count("\n") == 1
