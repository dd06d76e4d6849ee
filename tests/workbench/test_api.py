"""The functions for notebooks say what the command line says, as tables, and keep nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

import servecast
from servecast import InputError, Report
from servecast.cli import main


def test_a_report_is_that_of_the_command_line(trace: Path, plan: Any, slo: Any, report: Report, tmp_path: Path) -> None:
    for name, data in (("plan", plan), ("slo", slo)):
        (tmp_path / f"{name}.yaml").write_text(json.dumps(data))
    words = [f"--{name}={tmp_path / name}.yaml" for name in ("plan", "slo")]
    assert main(["simulate", f"--trace={trace}", *words, f"--out={tmp_path / 'cli'}"]) == 0
    report.save(tmp_path / "api")
    for name in ("report.json", "requests.csv.gz", "timeseries.csv.gz"):
        assert (tmp_path / "cli" / name).read_bytes() == (tmp_path / "api" / name).read_bytes()


def test_tables_are_the_same_before_and_after_the_files(report: Report, folder: Path) -> None:
    read = Report.load(folder)
    assert list(read.requests) == list(report.requests) and read.data == report.data
    for name in read.requests:
        ours, theirs = report.requests[name], read.requests[name]
        assert (ours.isna() == theirs.isna()).all()
        if name.endswith("_s"):  # pandas below 3 reads the last bit of a float as it likes
            assert np.allclose(ours, theirs, rtol=1e-15, atol=0, equal_nan=True)
        else:
            assert (ours.astype(theirs.dtype) == theirs).all()
    pd.testing.assert_frame_equal(read.summary, report.summary)
    assert np.allclose(read.timeseries, report.timeseries, atol=6e-4)  # the file rounds to three decimals


def test_the_summary_is_of_the_rows(report: Report) -> None:
    rows = report.requests
    assert report.summary.loc["ttft", "p99"] == pytest.approx(np.percentile(rows["ttft_s"], 99) * 1e3)
    assert report.summary.loc["e2el", "mean"] == pytest.approx(rows["e2el_s"].mean() * 1e3)


def test_a_notebook_shows_tables_and_well_formed_pictures(report: Report) -> None:
    html = report._repr_html_()
    assert "MISSED ttft p99 &lt;= 1ms" in html and "300 of 300 requests" in html
    pictures = html.split("<svg")[1:]
    assert len(pictures) == 2
    for picture in pictures:
        ElementTree.fromstring("<svg" + picture.split("</svg>")[0] + "</svg>")


def test_changes_reach_the_plan(trace: Path, plan: Any) -> None:
    slow = servecast.simulate(trace, plan, changes={"pools[0].replicas": 1, "router": "round_robin"}, limit=50)
    assert slow.data["simulation"]["pools"][0]["replicas"] == 1 and slow.data["num_prompts"] == 50
    with pytest.raises(InputError, match=r"pools\[0\].replica: unknown key.*replicas"):
        servecast.simulate(trace, plan, changes={"pools[0].replica": 1})


def test_a_sweep_is_a_table(trace: Path, plan: Any, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(json.dumps(plan))
    spec = {"base": {"trace": str(trace), "plan": str(tmp_path / "plan.yaml")}, "grid": {"rate_scale": [1, 2]}}
    table = servecast.sweep(spec)
    assert table["status"].tolist() == ["done", "done"]
    assert table["duration"][0] > table["duration"][1]


def test_capacity_lies_between_a_run_that_met_and_one_that_missed(trace: Path, plan: Any) -> None:
    slo = {"objectives": ["ttft p90 <= 300ms"]}
    found = servecast.capacity(trace, plan, slo, precision=0.1)
    met = found.probes[found.probes["met"]]["request_rate"].max()
    assert found.request_rate == met < found.probes[~found.probes["met"]]["request_rate"].min()
    assert "requests/s" in repr(found) and "<svg" in found._repr_html_()


def test_the_cheapest_plan_can_be_simulated(trace: Path, tmp_path: Path) -> None:
    inventory = tmp_path / "inventory.yaml"
    inventory.write_text("model: llama-3.1-8b\ngpus: {h100: {count: 4}}\ntensor_parallel_size: [1]\n")
    slo = {"objectives": ["ttft p90 <= 2s", "tpot p90 <= 200ms"]}
    answer = servecast.plan(trace, slo, inventory, compare=False, replays=4)
    assert answer.plan is not None and answer.tried["met"].any()
    report = servecast.simulate(trace, answer.plan, slo)
    assert all(objective["met"] for objective in report.data["slo"]["objectives"])
    assert "<table>" in answer._repr_html_()
    with pytest.raises(InputError, match="did you mean 'pareto'"):
        servecast.plan(trace, slo, inventory, parto=True)


def test_a_folder_without_results_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no report.json in it; expected a folder of `servecast simulate --out`"):
        Report.load(tmp_path)


def test_closed_loops_and_programs_are_traces_too(plan: Any, tmp_path: Path) -> None:
    loop = tmp_path / "loop.yaml"
    text = "prompt_tokens: {constant: {value: 300}}\noutput_tokens: {constant: {value: 20}}\n"
    loop.write_text(f"kind: closed_loop\nusers: 3\nrequests: 30\nthink_time: {{constant: {{value: 0.5}}}}\n{text}")
    report = servecast.simulate(loop, plan, limit=20)
    assert report.data["simulation"]["load"]["verdict"] == "closed loop" and len(report.requests) == 20
    assert report.programs is None
    with pytest.raises(InputError, match="users who send when they are ready"):
        servecast.simulate(loop, plan, rate_scale=2)
    agents = Path(servecast.__file__).parent / "traces" / "samples" / "web-search.yaml"
    report = servecast.simulate(agents, plan, changes={"pools[0].max_model_len": 131072})
    report.save(tmp_path / "out")
    assert report.programs is not None and len(report.programs) == report.data["programs"]["begun"]
    read = Report.load(tmp_path / "out").programs
    assert read is not None and np.allclose(read["jct_s"], report.programs["jct_s"], atol=1e-9)
