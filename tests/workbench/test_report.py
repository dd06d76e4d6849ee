"""The page, the Perfetto trace and the OpenMetrics text hold the run, need no network, and stay bounded."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import image

from servecast import InputError, Report
from servecast.cli import main
from servecast.workbench import excerpt as excerpt_module
from servecast.workbench.excerpt import excerpt, slots
from servecast.workbench.html_report import report_page
from servecast.workbench.svg import Line, chart

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def test_the_page_has_every_part_and_no_reference(folder: Path) -> None:
    html = report_page(folder)
    for heading in ("SLO", "Latency", "Over time", "What this rests on"):
        assert f"<h2>{heading}</h2>" in html
    assert "MISSED ttft p99 &lt;= 1ms" in html and "step times <b>estimated</b>" in html
    assert not re.findall(r"""(?:src|href)=|url\(|<script|@import""", html)
    for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        ElementTree.fromstring(svg)


def test_a_browser_shows_it(folder: Path, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    page, picture = tmp_path / "report.html", tmp_path / "shot.png"
    page.write_text(report_page(folder))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={tmp_path / 'me'}"]
    command = [browser, *flags, f"--screenshot={picture}", "--window-size=1240,2600", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=100)
    pixels = (image.imread(picture)[..., :3] * 255).astype(int)
    assert pixels.shape[:2] == (2600, 1240)
    ink = (pixels.min(axis=2) < 200).any(axis=1)
    assert ink.mean() > 0.3 and ink[1500:].any()  # not blank, and not only a title
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x56, 0xB4, 0xE9)):  # curves; prefill; decode
        assert (np.abs(pixels - colour).max(axis=2) < 8).sum() > 200
    assert (pixels[:, -8:] > 250).all()  # nothing runs out of the page


def test_a_long_run_is_sampled_and_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(excerpt_module, "MOST", 70)
    monkeypatch.setattr(excerpt_module, "IN_WINDOW", 10)
    html = report_page(folder)
    assert "Charts are of every 5th of 300 requests; tables are of all." in html
    found = excerpt(folder, Report.load(folder).data, (1.0, 3.0))
    assert found.sample["request_id"].tolist() == [str(i) for i in range(0, 300, 5)]
    assert len(found.arriving) == 10 and found.overlapping > 20


def test_a_window_without_requests_is_a_mistake(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text, message in (
        ("900:901", "no request between 900 and 901 s"),
        ("5:5", "START:END in seconds"),
        ("x", "START:END"),
    ):
        assert main(["report", str(folder), "--window", text]) == 2
        assert message in capsys.readouterr().err
    assert not (folder / "report.html").exists()


def test_bars_in_a_row_do_not_overlap() -> None:
    begin, end = [0.0, 0.5, 1.0, 1.0, 2.0], [1.0, 3.0, 2.0, 4.0, 2.5]
    assert slots(begin, end) == [0, 1, 0, 2, 0]  # who ends as another begins makes room for it


def test_perfetto_events_are_the_requests_of_the_window(folder: Path, report: Report, tmp_path: Path) -> None:
    assert main(["report", str(folder), "--perfetto", str(tmp_path / "t.json"), "--window", "2:4"]) == 0
    trace = json.loads((tmp_path / "t.json").read_text())
    rows = report.requests
    inside = rows[(rows["arrival_s"] < 4) & (rows["ended_s"] > 2)]
    slices = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    assert {e["args"]["request_id"] for e in slices} == set(inside["request_id"])
    spent: dict[str, float] = defaultdict(float)
    lanes: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    for e in slices:
        spent[e["args"]["request_id"]] += e["dur"] / 1e6
        lanes[e["pid"], e["tid"]].append((e["ts"], e["ts"] + e["dur"]))
    for name, seconds in inside.set_index("request_id")["e2el_s"].items():
        assert spent[str(name)] == pytest.approx(seconds, abs=1e-6)
    for bars in lanes.values():
        assert all(later[0] >= earlier[1] - 1e-3 for earlier, later in pairwise(sorted(bars)))  # microseconds
    assert {e["name"] for e in trace["traceEvents"] if e["ph"] == "C"} >= {
        "engine 0 running",
        "engine 1 kv_cache_usage",
    }


def test_openmetrics_counts_what_finished(folder: Path, report: Report, tmp_path: Path) -> None:
    path = tmp_path / "metrics.txt"
    assert main(["report", str(folder), "--openmetrics", str(path), "--epoch", "1000"]) == 0
    text = path.read_text()
    assert text.endswith("# EOF\n")
    sample = re.compile(
        r'(vllm:\w+)\{(model_name="[^"]+",engine="(\d+)",replica="\d+"(?:,\w+="[^"]+")?)\} (\S+) (\d+\.\d+)'
    )
    last: dict[tuple[str, str], float] = {}
    stamps: dict[tuple[str, str], float] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name, labels, _, value, stamp = sample.fullmatch(line).groups()  # type: ignore[union-attr]
        key = name, labels
        assert float(stamp) > stamps.get(key, 1000.0)  # points of a metric are in order, as the format demands
        if not name.startswith(("vllm:num", "vllm:kv")):
            assert float(value) >= last.get(key, 0.0)  # counters and buckets never fall
        last[key], stamps[key] = float(value), float(stamp)

    def total(name: str, label: str = "") -> float:
        return sum(value for (n, labels), value in last.items() if n == name and label in labels)

    assert total("vllm:request_success_total") == 300
    assert total("vllm:time_to_first_token_seconds_count") == 300
    assert total("vllm:time_to_first_token_seconds_bucket", 'le="+Inf"') == 300
    below = (report.requests["ttft_s"] <= 0.04).sum()
    assert total("vllm:time_to_first_token_seconds_bucket", 'le="0.04"') == below
    assert total("vllm:time_to_first_token_seconds_sum") == pytest.approx(report.requests["ttft_s"].sum())
    # A first token is not of a decode; time series count leaps evenly, so the total is exact to their rounding.
    decoded = report.requests["generated"].sum() - 300
    assert total("vllm:generation_tokens_total") == pytest.approx(decoded, rel=1e-3)


def test_a_flat_line_and_an_empty_chart_can_be_drawn() -> None:
    for lines in ([], [Line("a", np.array([1.0]), np.array([0.0]))], [Line("<b>", np.zeros(2), np.zeros(2))]):
        for log in (False, True):
            ElementTree.fromstring(chart(lines, "a < b", "ms", log=log))


def test_results_of_another_tool_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no report\.json"):
        report_page(tmp_path)
