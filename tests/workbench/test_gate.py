"""The gate: verdicts flip on planted changes, and say so in exit codes, JUnit, Markdown and JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from servecast.cli import main
from servecast.configs.slo import Objective
from servecast.workbench.gate.cases import Slack
from servecast.workbench.gate.verdicts import Verdict, against_baseline, against_limit, bounds, interval

Write = Callable[..., Path]


@pytest.fixture
def gate(tmp_path: Path, trace: Path, plan: dict[str, Any]) -> Write:
    """Writes the plan and a gate of one case with other keys, and returns the gate's path."""

    def write(change: dict[str, Any] | None = None, **keys: Any) -> Path:
        pool = {**plan["pools"][0], **(change or {})}
        (tmp_path / "plan.yaml").write_text(yaml.safe_dump({**plan, "pools": [pool]}))
        case = {"name": "chat", "plan": "plan.yaml", "trace": str(trace), "objectives": ["ttft p90 <= 1s"], **keys}
        (tmp_path / "slos.yaml").write_text(yaml.safe_dump({"cases": [case]}))
        return tmp_path / "slos.yaml"

    return write


def checked(path: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, dict[str, Any]]:
    """The exit code, and the objectives by text."""
    code = main(["slo", "check", str(path), "--json", *flags])
    result = json.loads(capsys.readouterr().out)
    assert result["exit_code"] == code
    return code, {row["objective"]: row for row in result["cases"][0]["objectives"]}


def test_a_planted_change_regresses_then_fails(gate: Write, capsys: pytest.CaptureFixture[str]) -> None:
    keys = {"objectives": ["ttft p90 <= 1s", "ttft p90 <= 20s"], "regress": {"max": "5%", "abs": "2ms"}}
    path = gate(**keys)
    assert main(["slo", "accept", str(path)]) == 0
    assert "new" in capsys.readouterr().out
    assert checked(path, capsys)[0] == 0
    assert checked(gate({"gpu_clock_mhz": 600}, **keys), capsys)[1]["ttft p90 <= 20s"]["verdict"] == "regress"
    slower = gate({"replicas": 1, "max_num_seqs": 8}, **keys)  # the same trace waits for slots
    code, rows = checked(slower, capsys)
    assert code == 1
    assert rows["ttft p90 <= 1s"]["verdict"] == "fail" and "queueing" in rows["ttft p90 <= 1s"]["reason"]
    assert rows["ttft p90 <= 20s"]["verdict"] == "regress" and "queueing" in rows["ttft p90 <= 20s"]["reason"]
    assert rows["ttft p90 <= 20s"]["change"] > 0.05 and 0 < rows["ttft p90 <= 20s"]["headroom"] < 1
    assert main(["slo", "accept", str(slower)]) == 0
    assert "changed" in capsys.readouterr().out
    code, rows = checked(slower, capsys)
    assert code == 1 and rows["ttft p90 <= 20s"]["verdict"] == "pass"  # accepted; the other still fails


def test_a_limit_inside_the_calibrated_error_is_unsure(
    gate: Write, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    _, rows = checked(gate(), capsys)
    value = rows["ttft p90 <= 1s"]["value"]
    errors = {"ttft_from_arrival": {"mean": 0.02, "p90": -0.1}}
    calibration = {"engine": "vllm-0.19", "step_times": "estimated", "errors": errors}
    (tmp_path / "validate.json").write_text(json.dumps(calibration))
    keys = {"slack": "calibrated", "calibration": "validate.json"}
    for factor, verdict, code, strict in ((1.2, "pass", 0, 0), (1.05, "unsure", 0, 3), (0.95, "unsure", 0, 3),
                                          (0.85, "fail", 1, 1)):  # fmt: skip
        text = f"ttft p90 <= {value * factor:.9f}s"
        path = gate(objectives=[text], **keys)
        assert checked(path, capsys)[1][text]["verdict"] == verdict
        assert main(["slo", "check", str(path)]) == code
        assert main(["slo", "check", str(path), "--strict"]) == strict
        capsys.readouterr()
    (tmp_path / "validate.json").write_text(json.dumps({**calibration, "engine": "vllm-0.6"}))
    assert main(["slo", "check", str(path)]) == 2
    assert "engine: 'vllm-0.6'; expected vllm-0.19" in capsys.readouterr().err


def test_what_cannot_be_compared_is_invalid(gate: Write, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    keys = {"regress": {"max": "5%"}}
    path = gate(**keys)
    code, rows = checked(path, capsys)
    assert code == 2 and "no baseline" in rows["ttft p90 <= 1s"]["reason"]
    main(["slo", "accept", str(path)])
    capsys.readouterr()
    assert checked(gate({"max_num_seqs": 64, "tensor_parallel_size": 2}, **keys), capsys)[0] == 0  # the same GPU
    for change, more, reason in (
        ({"hardware": "h200"}, {}, "another cost model"),
        ({}, {"limit": 100}, "another trace"),
        ({}, {"seeds": 2}, "seeds"),
        ({}, {"objectives": ["itl p90 <= 1s"]}, None),  # the baseline has every figure
    ):
        code, rows = checked(gate(change, **{**keys, **more}), capsys)
        (row, *_) = rows.values()
        assert (code, row["verdict"]) == ((2, "invalid") if reason else (0, "pass"))
        assert reason is None or reason in row["reason"]
    code, rows = checked(gate({"max_model_len": 131072, "hardware": "l4"}, **keys), capsys)
    assert code == 2 and "KV blocks" in rows["the plan can start"]["reason"]
    code, rows = checked(gate(cost_model="0123456789abcdef"), capsys)
    assert code == 2 and "0123456789abcdef" in rows["cost model"]["reason"]


def test_overload_fails_whatever_the_limits(gate: Write, capsys: pytest.CaptureFixture[str]) -> None:
    tight = {"replicas": 1, "max_num_seqs": 2}
    assert checked(gate(tight, objectives=["ttft p90 <= 1h"]), capsys)[1]["not saturated"]["verdict"] == "fail"
    assert checked(gate(tight, objectives=["ttft p90 <= 1h"], not_saturated=False), capsys)[0] == 0


def test_classes_and_goodput_of_those_offered(gate: Write, capsys: pytest.CaptureFixture[str], report: Any) -> None:
    objectives = ["goodput >= 99% of offered", {"objective": "ttft p99 <= 1us", "class": "a"}]
    code, rows = checked(gate(goodput={"ttft": "1us"}, objectives=objectives), capsys)
    assert code == 1 and rows["goodput >= 99% of offered"]["value"] == 0
    assert "ttft of 300 requests: mostly" in rows["goodput >= 99% of offered"]["reason"]
    value = rows["a: ttft p99 <= 1us"]["value"]
    assert value == pytest.approx(report.requests.query("request_class == 'a'")["ttft_s"].quantile(0.99))
    assert "ttft of 150 requests" in rows["a: ttft p99 <= 1us"]["reason"]


def test_exactness_sees_what_no_objective_does(gate: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = gate(exact=True, objectives=[])
    main(["slo", "accept", str(path)])
    capsys.readouterr()
    assert checked(path, capsys)[0] == 0
    code, rows = checked(gate({"max_num_batched_tokens": 512, "max_num_seqs": 256}, exact=True, objectives=[]), capsys)
    assert code == 1 and "figures differ" in rows["exactly as before"]["reason"]


def test_outputs_for_ci(gate: Write, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = gate(objectives=["ttft p90 <= 1s", "ttft p90 <= 1us"])
    assert main(["slo", "check", str(path), "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().out
    assert "chat: fail" in printed and "fail     ttft p90 <= 1us" in printed and "rests on 3" not in printed
    (suite,) = ElementTree.parse(tmp_path / "out" / "slo.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "0")
    (failure,) = suite.iter("failure")
    assert "mostly" in str(failure.get("message"))
    page = (tmp_path / "out" / "slo.md").read_text()
    assert page.startswith("## servecast slo: fail") and "| **fail** | `ttft p90 <= 1us` |" in page
    assert json.loads((tmp_path / "out" / "slo.json").read_text())["verdict"] == "fail"


def test_a_drawn_trace_is_judged_by_its_seeds(gate: Write, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Another plan that is worse in every seed regresses; the same plan differs in none."""
    spec = {
        "kind": "poisson", "rate": 8.0, "requests": 60, "prompt_tokens": {"constant": {"value": 700}},
        "output_tokens": {"constant": {"value": 40}},
    }  # fmt: skip
    (tmp_path / "load.yaml").write_text(yaml.safe_dump(spec))
    keys = {"trace": "load.yaml", "seeds": 3, "regress": {"max": "1%"}, "objectives": ["e2el mean <= 1h"]}
    path = gate(**keys)
    main(["slo", "accept", str(path)])
    assert len(json.loads((tmp_path / "baselines" / "chat.json").read_text())["figures"]["e2el mean"]) == 3
    capsys.readouterr()
    assert checked(path, capsys)[0] == 0
    code, rows = checked(gate({"replicas": 1, "max_num_seqs": 2}, **keys), capsys)
    assert code == 1 and rows["e2el mean <= 1h"]["verdict"] == "regress"


def test_the_rules_themselves() -> None:
    at_most, at_least = Objective.parse("ttft p99 <= 1s", ""), Objective.parse("goodput >= 90%", "")
    assert [against_limit(at_most, low, high) for low, high in ((0.8, 0.9), (0.9, 1.1), (1.1, 1.2))] == [
        Verdict.PASS, Verdict.UNSURE, Verdict.FAIL,
    ]  # fmt: skip
    assert against_limit(at_least, 0.95, 0.99) == Verdict.PASS
    low, high = bounds([1.1], 0.1)  # 10 % too slow: a real engine takes 1.0 s, or 1.22 s if we are as much too fast
    assert low == pytest.approx(1.0) and high == pytest.approx(1.1 / 0.9)
    slack = Slack(0.05, 0.1)
    verdicts = [against_baseline(at_most, [now], [1.0], slack) for now in (1.04, 1.09, 1.11, 0.5)]
    assert verdicts == [Verdict.PASS, Verdict.PASS, Verdict.REGRESS, Verdict.PASS]  # both slacks must be exceeded
    assert against_baseline(at_least, [0.8], [0.95], Slack(0.05)) == Verdict.REGRESS
    noisy = against_baseline(at_most, [1.0, 3.0, 1.0], [1.0, 1.0, 1.0], Slack(0.05))
    assert noisy == Verdict.UNSURE  # one seed of three decides
    low, high = interval([1.0, 2.0, 3.0])
    assert 1.0 <= low < 2.0 < high <= 3.0 and interval([1.0, 2.0, 3.0]) == (low, high)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"objectives": ["ttft p98 <= 1s"]}, r"cases\[0\].objectives\[0\]: no statistic is called 'p98'"),
        ({"objectives": ["ttft p99 <= 800"]}, "a duration with its unit"),
        ({"objectives": [{"objective": "ttft p99 <= 1s", "klass": "a"}]}, "did you mean 'class'"),
        ({"objectives": [{"objective": "itl p99 <= 1s", "class": "a"}]}, "ttft, tpot, e2el or goodput"),
        ({"objectives": []}, "at least one"),
        ({"regress": {"max": "five"}}, "a share such as 5%"),
        ({"regress": {"maximum": "5%"}}, "did you mean 'max'"),
        ({"regress": {"abs": 2}}, "a duration with its unit"),
        ({"trace": "nowhere.jsonl"}, "no file 'nowhere.jsonl'"),
        ({"slack": "calibrated"}, "calibrated without a calibration"),
        ({"name": "a/b"}, "it names a file"),
        ({"objectives": ["goodput >= 99%"]}, "an objective without limits"),
        ({"objectives": [{"objective": "ttft p99 <= 1s", "class": "c"}]}, "one of a, b"),
    ],
)  # fmt: skip
def test_mistakes_name_their_place(
    gate: Write, capsys: pytest.CaptureFixture[str], keys: dict[str, Any], message: str
) -> None:
    assert main(["slo", "check", str(gate(**keys))]) == 2
    assert re.search(message, capsys.readouterr().err)
