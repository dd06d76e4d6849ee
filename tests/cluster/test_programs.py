"""Requests that are born when others end: DAGs, abandoned programs, what the next turn finds, the files of a run."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

from servecast.sim.report.programs import program_figures, program_rows
from servecast.sim.report.report import build_report
from servecast.sim.report.write import write_results
from servecast.traces.columns import Labels
from servecast.traces.programs import ParentRows, Programs
from servecast.traces.table import RequestTable

TICK = 2.0**-36
PAGE = Path(__file__).parents[2] / "docs" / "output.md"


def diamond(prompts=(100, 200, 300, 50)):
    links = Programs(
        ParentRows.of([[], [0], [0], [1, 2]]), np.array([0, 0.5, 1, 2.0]), Labels.of([None, "x", "y", "x"]),
        np.array([60.0] * 4),
    )  # fmt: skip
    return RequestTable(
        np.arange(4.0), np.array(prompts), np.array([10, 20, 30, 5]), session=Labels.of(["p"] * 4), programs=links
    )


def by_row(result, name):
    c = result.recorder.requests.columns()
    return dict(zip(c["row"].tolist(), (c[name] * TICK).tolist(), strict=True))


def test_a_request_comes_when_its_last_parent_has_ended_and_its_tool_has_answered(small):
    result = small.run_all(small.plan([{}]), diamond())
    arrival, ended = by_row(result, "arrival"), by_row(result, "ended")
    assert arrival[1] == pytest.approx(ended[0] + 0.5, abs=1e-9)
    assert arrival[2] == pytest.approx(ended[0] + 1, abs=1e-9)
    assert arrival[3] == pytest.approx(max(ended[1], ended[2]) + 2, abs=1e-9)


def test_what_waits_for_a_request_that_fails_is_never_sent(small):
    result = small.run_all(small.plan([{}]), diamond((100, 2000, 300, 50)))  # the second fits nowhere
    assert sorted(by_row(result, "arrival")) == [0, 1, 2]
    figures = program_figures(result)
    assert (figures["begun"], figures["finished"], figures["abandoned"]) == (1, 0, 1)
    assert figures["mean_jct_ms"] is None and figures["deadlines_met_share"] == 0.0


@pytest.mark.parametrize("keys", [{}, {"replicas": 2}, {"num_gpu_blocks_override": 65}, {"eviction": "cost_aware"}])
def test_all_engines_agree_on_programs(small, programs, keys):
    for seed in range(2):
        result = small.run_all(small.plan([keys]), programs(seed))
        assert program_figures(result)["finished"] == 40


def test_clients_that_give_up_and_try_again_go_on_with_their_program(small, programs):
    plan = small.plan([{}], clients={"timeout": 3.0, "retries": 3, "backoff": 0.1})
    result = small.run_all(plan, dataclasses.replace(programs(), arrival=np.zeros(len(programs()))))
    figures = program_figures(result)
    assert result.timeouts > 10
    assert figures["finished"] + figures["abandoned"] == 40 and figures["finished"] > 5


def test_turns_find_their_context_and_recomputation_is_counted(small, programs):
    ample = program_rows(small.run(programs(), small.plan([{"num_gpu_blocks_override": 4000}])))
    assert ample["recomputed_tokens"].sum() == 0  # nothing is ever forgotten
    tight = program_rows(small.run(programs(), small.plan([{"num_gpu_blocks_override": 70}])))
    assert tight["recomputed_tokens"].sum() > 0
    assert tight["cached_tokens"].sum() < ample["cached_tokens"].sum()
    off = program_rows(small.run(programs(), small.plan([{"enable_prefix_caching": False}])))
    assert off["cached_tokens"].sum() == 0
    # Whatever a parent had in full blocks is either found or computed again.
    agents = ample["program_class"] == "agent"
    np.testing.assert_array_equal(off["recomputed_tokens"][agents] > 0, ample["calls"][agents] > 1)


def test_job_completion_time_is_made_of_turns_and_gaps(small, programs):
    result = small.run(programs(), small.plan([{}]))
    c = result.recorder.requests.columns()
    p = program_rows(result)
    e2e = np.bincount(programs().session.codes[c["row"]], (c["ended"] - c["arrival"]) * TICK)
    names = list(programs().session.names)
    for i in np.flatnonzero(p["program_class"] == "agent").tolist():  # a chain: one thing after the other
        assert p["jct_s"][i] == pytest.approx(e2e[names.index(p["program"][i])] + p["gap_s"][i], abs=1e-6)
    assert (p["queueing_between_s"] <= p["queueing_s"] + 1e-12).all()
    met = program_figures(result)["deadlines_met_share"]
    flows = p["program_class"] == "flow"
    assert met == pytest.approx((p["jct_s"][flows] <= 3).mean())


def test_the_files_and_the_page_that_describes_them(small, programs, tmp_path):
    result = small.run(programs(), small.plan([{}]))
    report = build_report(result)
    write_results(result, report, tmp_path)
    text = gzip.decompress((tmp_path / "programs.csv.gz").read_bytes()).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 40 and {r["status"] for r in rows} == {"finished"}
    assert sum(int(r["calls"]) for r in rows) == len(programs())
    page = PAGE.read_text().split("\n## Programs\n")[1].split("\n## ")[0]
    documented = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert [d for d in documented if not d.startswith("programs.")] == list(rows[0])
    keys = {f"programs.{key}" for key in json.loads((tmp_path / "report.json").read_text())["programs"]}
    assert keys == {d for d in documented if d.startswith("programs.") and "{" not in d} | {
        f"programs.{s}_{name}_ms"
        for name in ("jct", "queueing_between")
        for s in ("mean", "median", "std", "p50", "p90", "p95", "p99")
    }
