"""The closed loop: what it accepts, and that all of it runs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from servecast.cli import main
from servecast.configs.plan import Plan, plan_from
from servecast.profiling import closed_loop, collectives
from servecast.profiling.closed_loop import LIMITS, Comparison, Verdict
from servecast.real_backend.serve import servable
from servecast.sim.run import run
from servecast.traces.load import load
from servecast.traces.table import RequestTable


@pytest.mark.parametrize(
    ("simulated", "served", "afterwards", "limit", "drifts", "accepted"),
    [
        (1.05, (1.0,), 1.05, 0.10, True, True),
        (1.15, (1.0,), 1.15, 0.10, True, False),
        (1.15, (1.0,), 1.00, 0.10, True, True),  # the machine was 15 % slower before than after
        (0.85, (1.0,), 1.00, 0.10, True, True),
        (1.15, (1.0,), 1.00, 0.10, False, False),  # which is no excuse on a GPU
        (1.15, (0.8, 0.9, 1.0, 1.1, 1.2), 1.15, 0.10, True, True),  # or differs by more from run to run
        (1.15, (0.8, 0.9, 1.0, 1.1, 1.2), 1.15, 0.10, False, False),
        (1.15, (0.2, 1.0, 1.0, 1.0, 9.0), 1.15, 0.10, True, False),  # two runs that were disturbed are no excuse
        (2.00, (1.0,), 2.00, None, True, True),  # reported, not judged
    ],
)
def test_an_error_is_held_to_the_limit_or_to_the_drift(simulated, served, afterwards, limit, drifts, accepted):
    comparison = Comparison("steady", "e2el", simulated, served, afterwards, limit, drifts)
    assert comparison.accepted is accepted
    assert comparison.error == pytest.approx(simulated / 1.0 - 1)
    verdict = Verdict((comparison,), {"steady": {"load": 0.65, "preemptions": [0, *(0 for _ in served)]}})
    assert verdict.accepted is accepted
    assert ("missed" in verdict.table()) is not accepted
    assert json.loads(json.dumps(verdict.as_dict()))["comparisons"][0]["accepted"] is accepted


def test_a_gpu_is_held_to_more_than_a_cpu():
    assert LIMITS["cuda"] == {"e2el": 0.03, "tpot": 0.03, "ttft": 0.05}
    assert all(LIMITS["cpu"][metric] > LIMITS["cuda"][metric] for metric in LIMITS["cpu"])


@pytest.mark.skipif("cost" not in Plan.__dataclass_fields__, reason="plans cannot name a table set yet")
def test_the_loop_closes_on_a_cpu(files, tmp_path, capsys, monkeypatch):
    """All of it, small: whether the numbers agree is for a run that has the time."""
    monkeypatch.setattr("servecast.profiling.profile._PASSES", {"cpu": 1})
    model, grid = files()
    out = tmp_path / "out"
    words = ["--device", "cpu", "--model", str(model), "--grid", str(grid), "--requests", "12", "--budget", "0.2"]
    code = main(["closed-loop", *words, "--out", str(out), "--json"])
    verdict = json.loads(capsys.readouterr().out)
    assert code == (0 if verdict["accepted"] else 1)
    assert json.loads((out / "closed-loop.json").read_text()) == verdict
    assert {(c["trace"], c["metric"]) for c in verdict["comparisons"]} == {
        (trace, metric) for trace in ("steady", "overload") for metric in ("e2el", "tpot", "ttft")
    }
    for trace in ("steady", "overload"):
        simulated, served = (load(out / trace / kind / "requests.csv.gz") for kind in ("simulated", "served"))
        assert (simulated.prompt_tokens == served.prompt_tokens).all()
        assert len(verdict["traces"][trace]["preemptions"]) == 6
    assert all(c["drifts"] for c in verdict["comparisons"])
    assert main(["closed-loop", *words, "--out", str(out)]) == 2  # a second one would blend with the first
    assert "a closed loop that has been run" in capsys.readouterr().err


def test_memory_is_made_so_tight_that_requests_are_preempted():
    pool = {"name": "p", "hardware": "h100", "max_model_len": 2048, "max_num_seqs": 16, "num_gpu_blocks_override": 9000}
    plan = servable(plan_from({"model": "llama-3.1-8b", "engine": "vllm-0.19", "pools": [pool]}))
    overload = RequestTable(np.arange(40) / 100, np.full(40, 500), np.full(40, 300))
    assert not run(overload, plan).engines[0].preemptions
    assert run(overload, closed_loop._tight(overload, plan, 0)).engines[0].preemptions
    alone = RequestTable(np.arange(40) * 60.0, np.full(40, 500), np.full(40, 300))  # never two at a time
    least = closed_loop._tight(alone, plan, 0).pools[0]
    assert least.num_gpu_blocks_override == 2048 // 16


def test_too_few_requests_are_refused(tmp_path, capsys):
    assert main(["closed-loop", "--device", "cpu", "--requests", "3", "--out", str(tmp_path)]) == 2
    assert "--requests: 3; expected at least 10" in capsys.readouterr().err


@pytest.mark.slow
def test_messages_between_two_processes():
    """Gloo on a CPU takes the way that NCCL takes on GPUs."""
    rows = collectives.measure("cpu", 2, [64, 4096])
    assert {(p.keys["op"], p.keys["bytes"]) for p, _ in rows} == {
        (op, size) for op in collectives.OPERATIONS for size in (64, 4096)
    }
    assert all(p.keys["ranks"] == 2 and p.keys["backend"] == "gloo" and s.seconds > 0 for p, s in rows)
