"""A run on measured tables: the plan names them, the report says what they covered, and leaps stay exact."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from servecast.configs.plan import load_plan
from servecast.errors import InputError
from servecast.sim.report.report import build_report
from servecast.sim.run import run
from servecast.traces.table import RequestTable

PLAN = """\
model: llama-3.1-8b
engine: vllm-0.12
cost: kernels
pools: [{name: chat, hardware: h100, max_model_len: 4096}]
"""
MANIFEST = "format: 1\ngpu: G\nsource: s\nlicence: l\nhardware: h100\n"
TRACE = RequestTable(np.arange(40) * 0.05, np.full(40, 700), np.arange(40) % 17 + 20)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """A plan beside tables of matrix products that draw 600 W and of decode attention that draws 400 W."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "table.yaml").write_text(MANIFEST)
    gemm = ["dtype,n,k,m,time_us,power_w"]
    for n, k, m in itertools.product((1024, 131072), (1024, 16384), (1, 8192)):
        gemm.append(f"bf16,{n},{k},{m},{3 + n * k / 1.5e6 + m * n * k / 3e8:.6g},600")
    (tmp_path / "kernels" / "gemm.csv").write_text("\n".join(gemm) + "\n")
    decode = ["dtype,kv_dtype,heads,kv_heads,head_dim,window,batch,context,time_us,power_w"]
    for batch, context in itertools.product((1, 256), (1, 8192)):
        decode.append(f"bf16,bf16,32,8,128,0,{batch},{context},{8 + batch * context / 700:.6g},400")
    (tmp_path / "kernels" / "decode_attention.csv").write_text("\n".join(decode) + "\n")
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path / "plan.yaml"


def test_the_report_says_what_was_measured(plan: Path) -> None:
    pool = build_report(run(TRACE, load_plan(str(plan))))["simulation"]["pools"][0]
    shares, cost = pool["time_shares"], pool["cost_model"]
    assert cost["label"] == "measured" and cost["tables"]["gpu"] == "G"
    assert cost["operators"]["qkv_proj"] == "measured" and cost["operators"]["norm"] == "fallback"
    assert sum(shares.values()) == pytest.approx(1) and shares["measured"] > 0.5 and shares["derived"] == 0
    energy = pool["energy"]
    assert energy["label"] == "measured"
    served = run(TRACE, load_plan(str(plan)))
    busy = served.engines[0].busy / 2**36
    host = sum(1.27e-3 + 45e-6 * n for n in _batches(served))
    assert 400 * (busy - host) < energy["active_joules"] < 600 * (busy - host)
    kernels = sum(served.engines[0].meters.get(origin, 0) for origin in shares) / 2**36
    idle = served.duration / 2**36 - kernels  # the device waits for the host as it waits for requests
    assert energy["idle_joules"] == pytest.approx(0.18 * 700 * idle)


def _batches(served) -> list[int]:
    """Requests in each iteration."""
    columns = served.recorder.leaps[0].columns()
    sizes = columns["decodes"].astype(int) + columns["prefills"].astype(int)
    return np.repeat(sizes, columns["iterations"].astype(int)).tolist()


def test_leaps_are_steps_and_sum_up_the_same(plan: Path) -> None:
    leap, step = (run(TRACE, load_plan(str(plan)), step_by_step=way) for way in (False, True))
    assert leap.leaps < step.leaps
    for name, column in leap.recorder.requests.columns().items():
        np.testing.assert_array_equal(column, step.recorder.requests.columns()[name])
    assert leap.engines[0].meters == step.engines[0].meters
    assert leap.engines[0].busy == step.engines[0].busy


def test_a_roofline_has_no_shares(plan: Path) -> None:
    plan.write_text(PLAN.replace("cost: kernels\n", ""))
    pool = build_report(run(TRACE, load_plan(str(plan))))["simulation"]["pools"][0]
    assert pool["time_shares"] is None and pool["cost_model"]["label"] == "estimated"
    assert pool["energy"]["label"] == "assumed power" and pool["energy"]["active_joules"] > 0


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("cost: kernels", "cost: kernls", r"pools\[0\].cost: .*kernls: no such file or folder"),
        ("hardware: h100", "hardware: h200", r"cost: .*measured on h100; expected tables of h200, or `roofline`"),
        ("max_model_len: 4096", "max_model_len: 4096, quantization: fp7", "no weight format is called 'fp7'.*'fp8'"),
    ],
)
def test_bad_plans_are_named(plan: Path, old: str, new: str, says: str) -> None:
    plan.write_text(PLAN.replace(old, new))
    with pytest.raises(InputError, match=says):
        run(TRACE, load_plan(str(plan)))
