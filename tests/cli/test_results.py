"""What a good run leaves: vLLM's keys, rows whose parts sum up, the same bytes again, and strict JSON."""

from __future__ import annotations

import csv
import gzip
import json
import math
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

SAMPLE = Path(__file__).parents[2] / "traces" / "samples" / "chat-sample.jsonl.gz"
COMPONENTS = ("queueing", "prefill", "decode", "interference", "preemption", "transfer", "host")
COUNTS = ("completed", "failed", "total_input_tokens", "total_output_tokens")
RATES = ("duration", "request_throughput", "output_throughput", "total_token_throughput")
STATISTICS = ("mean", "median", "std", "p50", "p90", "p95", "p99")


def parse(text: str) -> Any:
    """JSON as other tools read it, which do not know NaN."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in JSON")

    return json.loads(text, parse_constant=refuse)


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(gzip.decompress(path.read_bytes()).decode().splitlines()))


@pytest.fixture
def sample(servecast: Any, tmp_path: Path) -> Path:
    """The demo's job."""
    outcome = servecast("simulate", "--trace", SAMPLE, "--plan", "default", "--slo", "chat", "--out", tmp_path / "out")
    assert (outcome.code, outcome.err) == (0, "")
    assert "time to first token" in outcome.out and "load: ok" in outcome.out
    return tmp_path / "out"


def test_the_bundled_sample(sample: Path) -> None:
    assert sorted(path.name for path in sample.iterdir()) == ["report.json", "requests.csv.gz", "timeseries.csv.gz"]
    report = parse((sample / "report.json").read_text())
    requests = rows(sample / "requests.csv.gz")
    assert report["completed"] == report["num_prompts"] == len(requests) == 9970
    assert report["failed"] == 0
    for key in COUNTS + RATES:
        assert key in report
    for metric in ("ttft", "tpot", "itl", "e2el"):
        values = [report[f"{statistic}_{metric}_ms"] for statistic in STATISTICS]
        assert all(math.isfinite(value) and value > 0 for value in values)
        assert report[f"median_{metric}_ms"] == report[f"p50_{metric}_ms"]
        assert values[3:] == sorted(values[3:])
    assert all(report["simulation"]["invariants"].values()) and not report["simulation"]["interrupted"]

    for row in requests:  # the parts of a request's time sum to all of it
        parts = math.fsum(float(row[f"{name}_s"]) for name in COMPONENTS)
        assert abs(parts - float(row["e2el_s"])) < 1e-9
        assert abs(parts - (float(row["last_token_s"]) - float(row["arrival_s"]))) < 1e-9
        assert row["generated"] == row["output_tokens"]
    # The report can be computed again from the rows.
    ttft = [float(row["first_token_s"]) - float(row["arrival_s"]) for row in requests]
    e2el = [float(row["last_token_s"]) - float(row["arrival_s"]) for row in requests]
    assert report["mean_ttft_ms"] == pytest.approx(1e3 * math.fsum(ttft) / len(ttft), rel=1e-6)
    assert report["mean_e2el_ms"] == pytest.approx(1e3 * math.fsum(e2el) / len(e2el), rel=1e-6)
    assert report["total_output_tokens"] == sum(int(row["generated"]) for row in requests)
    assert report["request_throughput"] == pytest.approx(len(requests) / report["duration"])

    series = rows(sample / "timeseries.csv.gz")
    assert {"t_s", "replica", "running", "waiting", "kv_cache_usage", "generation_throughput"} <= set(series[0])
    assert {row["replica"] for row in series} == {"0", "1", "2", "3"}
    width = float(series[4]["t_s"])
    tokens = sum(float(row["generation_throughput"]) for row in series) * width
    assert tokens == pytest.approx(report["total_output_tokens"] - len(requests), rel=0.02)  # the first come by prefill


def test_a_run_replays_as_a_trace(sample: Path, servecast: Any) -> None:
    described = parse(servecast("trace", "describe", sample / "requests.csv.gz", "--json").out)
    original = parse(servecast("trace", "describe", SAMPLE, "--json").out)
    for key in ("requests", "span_s", "total_tokens"):
        assert described[key] == pytest.approx(original[key], rel=1e-9)


def test_the_same_run_gives_the_same_bytes(simulate: Any, folder: Path) -> None:
    for name in ("a", "b"):
        assert simulate("--trace", "generator.yaml", "--seed", 4, "--out", name).code == 0
    for path in (folder / "a").iterdir():
        assert path.read_bytes() == (folder / "b" / path.name).read_bytes()
    assert simulate("--trace", "generator.yaml", "--seed", 5, "--out", "c").code == 0
    assert (folder / "c" / "requests.csv.gz").read_bytes() != (folder / "a" / "requests.csv.gz").read_bytes()


def test_json_on_the_screen_is_the_report(simulate: Any, folder: Path) -> None:
    outcome = simulate("--json")
    assert outcome.code == 0 and parse(outcome.out) == parse((folder / "out" / "report.json").read_text())


def test_what_cannot_be_measured_is_null(simulate: Any, folder: Path) -> None:
    """One request of one token: no time per output token, no inter-token latency."""
    (folder / "trace.jsonl").write_text('{"timestamp": 0, "input_length": 9, "output_length": 1}\n')
    report = parse(simulate("--json").out)
    assert report["completed"] == 1 and report["mean_tpot_ms"] is None and report["p99_itl_ms"] is None
    assert simulate().code == 0  # and as a table


def test_seeds_give_intervals(simulate: Any) -> None:
    report = parse(simulate("--trace", "generator.yaml", "--seeds", 3, "--json").out)
    assert report["confidence"]["seeds"] == 3
    interval = report["confidence"]["figures"]["mean_ttft_ms"]
    assert interval["half_width"] > 0 and interval["mean"] != report["mean_ttft_ms"]
    assert "95 % intervals over 3 seeds" in simulate("--trace", "generator.yaml", "--seeds", 3).out
    recorded = simulate("--seeds", 2)
    assert recorded.code == 0 and "nothing in this run is random" in recorded.out


def test_a_closed_loop_trace(simulate: Any, folder: Path) -> None:
    """Four users who think for 0.2 s on average: never more than four requests at a time, and each row is sent once."""
    report = parse(simulate("--trace", "loop.yaml", "--limit", 50, "--json").out)
    assert report["completed"] == 50 and report["simulation"]["load"]["verdict"] == "closed loop"
    sent = rows(folder / "out" / "requests.csv.gz")
    assert sorted(int(row["request_id"]) for row in sent) == list(range(50))
    changes = [(float(row["arrival_s"]), 1) for row in sent] + [(float(row["ended_s"]), -1) for row in sent]
    assert max(accumulate(step for _, step in sorted(changes))) == 4
    # 50 thoughts of 0.2 s by four users: half the mean is six standard deviations away.
    assert report["duration"] > 0.5 * 0.2 * 50 / 4
    again = parse(simulate("--trace", "loop.yaml", "--seeds", 3, "--json").out)
    assert again["confidence"]["figures"]["duration"]["half_width"] > 0


def test_warmup_and_horizon_cut_the_report(simulate: Any) -> None:
    assert parse(simulate("--warmup", 0.5, "--json").out)["num_prompts"] == 2
    cut = parse(simulate("--horizon", 1.001, "--json").out)
    assert (cut["num_prompts"], cut["completed"], cut["unfinished"]) == (2, 1, 1)


def test_step_by_step_gives_the_same_rows(simulate: Any, folder: Path) -> None:
    for name, flags in (("leaps", []), ("steps", ["--step-by-step"])):
        assert simulate("--trace", "generator.yaml", "--out", name, *flags).code == 0
    leaps, steps = (folder / name / "requests.csv.gz" for name in ("leaps", "steps"))
    assert leaps.read_bytes() == steps.read_bytes()


def test_plots(simulate: Any, folder: Path) -> None:
    assert simulate("--plots").code == 0
    pictures = sorted(path for path in (folder / "out").iterdir() if path.suffix == ".png")
    assert [path.name for path in pictures] == ["latency.png", "timeseries.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5_000 for path in pictures)


@pytest.mark.parametrize("plan", ["default", "bench-1", "bench-8"])
def test_check_explains_a_plan(servecast: Any, plan: str) -> None:
    outcome = servecast("check", plan)
    assert outcome.code == 0 and "this plan can start" in outcome.out and "weights" in outcome.out
    (pool,) = parse(servecast("check", plan, "--json").out)["pools"]
    assert pool["kv_tokens"] == pool["kv_blocks"] * pool["limits"]["block_size"] > 100_000
    assert pool["usd_per_hour"] > 0


def test_trace_commands_speak_json(servecast: Any, folder: Path) -> None:
    described = parse(servecast("trace", "describe", "trace.jsonl", "--json").out)
    assert described["requests"] == 3 and described["span_s"] == 2.5
    written = parse(servecast("trace", "generate", "generator.yaml", "--out", "g.jsonl", "--json").out)
    assert written["requests"] == 60 == len((folder / "g.jsonl").read_text().splitlines()) - 1
    assert parse(servecast("trace", "convert", "g.jsonl", "--out", "g.gz", "--json").out)["requests"] == 60
    assert parse(servecast("trace", "fit", "g.jsonl", "--json").out)["kind"] == "burst"
