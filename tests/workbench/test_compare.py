"""Comparisons pair requests, and their intervals hold what they promise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import servecast
from servecast import InputError, Report
from servecast.cli import main
from servecast.workbench.bootstrap import Resamples, interval, paired_intervals


@pytest.fixture(scope="module")
def slower(trace: Path, plan: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same trace on one replica, as files."""
    folder = tmp_path_factory.mktemp("results") / "one"
    servecast.simulate(trace, plan, changes={"pools[0].replicas": 1}).save(folder)
    return folder


def test_a_run_does_not_differ_from_itself(report: Report, folder: Path) -> None:
    frame = servecast.compare(report, folder).frame
    assert not frame[["difference", "low", "high", "faster"]].to_numpy().any()


def test_the_difference_is_that_of_the_pairs(report: Report, slower: Path) -> None:
    found = servecast.compare(report, slower, names=["two", "one"])
    other = Report.load(slower).requests.set_index("request_id")["ttft_s"]
    pairs = (other - report.requests.set_index("request_id")["ttft_s"]) * 1e3
    row = found.frame.query("metric == 'ttft' and statistic == 'mean'").iloc[0]
    assert row["difference"] == pytest.approx(pairs.mean()) and row["low"] < pairs.mean() < row["high"]
    assert row["faster"] == pytest.approx((pairs < 0).mean())
    assert "one against two: 300 requests in both" in repr(found) and found._repr_html_().count("<svg") == 4


def test_a_measured_run_stands_beside_a_simulated_one(report: Report, tmp_path: Path) -> None:
    """The JSON of `vllm bench serve` with the latencies of the simulation: nothing may differ but rounding."""
    rows = report.requests
    gaps = [[tpot] * (n - 1) if n > 1 else [] for tpot, n in zip(rows["tpot_s"], rows["generated"], strict=True)]
    measured = {
        "input_lens": rows["prompt_tokens"].tolist(), "output_lens": rows["generated"].tolist(),
        "ttfts": rows["ttft_s"].tolist(), "itls": gaps, "start_times": rows["arrival_s"].tolist(),
        "errors": [""] * len(rows),
    }  # fmt: skip
    path = tmp_path / "measured.json"
    path.write_text(json.dumps(measured))
    frame = servecast.compare(path, report).frame
    assert np.abs(frame["difference"]).max() < 1e-4  # ms; times have nine decimals of a second


def test_the_command_writes_json_and_a_page(
    folder: Path, slower: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(folder), str(slower), "--out", str(tmp_path / "out"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out" / "compare.json").read_text())
    assert printed["base"] == "two" and printed["runs"][0]["paired"] == 300
    html = (tmp_path / "out" / "compare.html").read_text()
    assert html.startswith("<!doctype html>") and "http://" not in html.replace("http://www.w3.org/2000/svg", "")


def test_other_traces_are_refused(report: Report, trace: Path, plan: Any, tmp_path: Path) -> None:
    faster = servecast.simulate(trace, plan, rate_scale=2)
    with pytest.raises(InputError, match="replays another trace"):
        servecast.compare(report, faster)
    with pytest.raises(InputError, match="no such file or folder"):
        servecast.compare(report, tmp_path / "nowhere")
    with pytest.raises(InputError, match="3 names for 2 runs"):
        servecast.compare(report, report, names=["a", "b", "c"])


def test_one_run_is_nothing_to_compare(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(folder)]) == 2
    assert "one run; expected two or more" in capsys.readouterr().err


def test_independent_requests_give_the_intervals_of_the_textbook() -> None:
    """Of the mean: 1.96 standard errors. 30 batches know the error within 13 % (1 / sqrt(2 * 29)), 1000 resamples the
    ends within some 5 % more; three times that is 50 %."""
    values = np.random.default_rng(1).exponential(size=6000)
    low, high = interval(Resamples(len(values)).means(values))
    expected = 1.96 * values.std() / np.sqrt(len(values))
    assert low < values.mean() < high and 0.5 * expected < (high - low) / 2 < 1.5 * expected


def test_quantiles_of_a_resample_are_those_of_its_requests() -> None:
    draws = Resamples(900)
    values = np.random.default_rng(2).normal(size=900)
    for share in (0.5, 0.9, 0.99):
        found = draws.quantiles(values, share)
        for i in (0, 17, 999):
            resample = np.repeat(values, draws.counts[i][draws.of])
            assert found[i] == np.quantile(resample, share, method="inverted_cdf")


def test_batches_see_what_neighbours_share() -> None:
    """Where 200 neighbours have one value, single requests taken as independent would promise 14 times too much."""
    values = np.repeat(np.random.default_rng(3).normal(size=30), 200)
    low, high = paired_intervals(np.zeros(len(values)), values, [])[0]
    naive = 1.96 * values.std() / np.sqrt(len(values))
    assert (high - low) / 2 > 8 * naive
