"""Facts about the public traces: what our readers and statistics must find in the files themselves.

Sources: the README beside the files, and the tables of the BurstGPT study ([C], computed from the rows).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from servecast.traces.load import load
from servecast.traces.stats import describe, tokens_per_second


def plain_quantile(values: np.ndarray, q: float) -> int:
    """The quantile of the published tables: the value at place int(q n) of the sorted ones."""
    return int(np.sort(values)[int(q * len(values))])


def test_burstgpt_1_slice(data: Path) -> None:
    path = data / "burstgpt" / "burstgpt_slice.csv"
    table = load(path)
    assert (table.source.rows, table.source.failed, len(table)) == (400, 17, 383)
    prompt, output = table.prompt_tokens, table.output_tokens
    assert round(prompt.mean()) == 544 and round(output.mean()) == 289
    assert [plain_quantile(prompt, q) for q in (0.5, 0.9)] == [353, 1437]
    assert [plain_quantile(output, q) for q in (0.5, 0.9, 0.99)] == [238, 586, 1442]
    assert table.request_class is not None and list(table.request_class).count("Conversation log") >= 0.99 * 383
    gaps = describe(load(path, keep_failed=True))["interarrival"]
    assert gaps["cv"] == pytest.approx(4.56, abs=0.005)
    assert gaps["busy_hour_cv"] == pytest.approx(1.03, abs=0.02)
    assert gaps["gamma_shape"] == pytest.approx(0.94, abs=0.03)


def test_burstgpt_3_slice(data: Path) -> None:
    path = data / "burstgpt" / "burstgpt3_slice.csv"
    table = load(path)
    prompt, output = table.prompt_tokens, table.output_tokens
    assert round(prompt.mean()) == 619 and round(output.mean()) == 171
    assert [plain_quantile(prompt, q) for q in (0.5, 0.99)] == [309, 12149]
    assert [plain_quantile(output, q) for q in (0.5, 0.9)] == [101, 435]
    kept = describe(load(path, keep_failed=True))
    sessions = kept["sessions"]
    assert (sessions["count"], sessions["turns_max"]) == (135, 24)
    assert sessions["turns_mean"] == pytest.approx(2.92, abs=0.005)
    assert sessions["single_share"] == pytest.approx(0.44, abs=0.005)
    assert (sessions["gap_p50"], round(sessions["gap_mean"])) == (123.0, 536)
    assert kept["interarrival"]["cv"] == pytest.approx(2.87, abs=0.005)
    assert kept["interarrival"]["busy_hour_cv"] == pytest.approx(1.13, abs=0.03)
    assert table.elapsed is not None and table.model is not None
    long = output >= 20  # elapsed time is in whole seconds
    per_token = table.elapsed / output
    by_model = {name: np.median(per_token[long & (table.model.codes == i)]) for i, name in enumerate(table.model.names)}
    assert by_model["ChatGPT"] == pytest.approx(0.0189, abs=5e-5)
    assert by_model["GPT-4"] == pytest.approx(0.1105, abs=5e-5)


@pytest.mark.parametrize(
    ("name", "rows", "rate", "cv", "prompt", "output"),
    [
        ("code", 8_819, 2.57, 13.2, (2048, 1469, 7436), (28, 13, 252)),
        ("conv", 19_366, 5.53, 1.09, (1155, 1020, 4142), (211, 129, 601)),
    ],
)
def test_azure_2023(
    data: Path, name: str, rows: int, rate: float, cv: float, prompt: tuple[int, ...], output: tuple[int, ...]
) -> None:
    d = describe(load(data / "azure" / f"AzureLLMInferenceTrace_{name}.csv.gz"))
    assert d["requests"] == rows and d["failed"] == 0
    assert d["requests_per_s"] == pytest.approx(rate, abs=0.005)
    assert d["interarrival"]["cv"] == pytest.approx(cv, rel=0.005)
    for side, published in (("prompt_tokens", prompt), ("output_tokens", output)):
        found = d[side]
        assert [found[key] for key in ("mean", "p50", "p99")] == pytest.approx(published, abs=0.75)


@pytest.mark.parametrize(
    ("name", "rows", "prompt", "output", "listed", "full"),
    [("conversation", 12_031, 12_035, 343, 0.366, 0.382), ("synthetic", 3_993, 15_325, 149, 0.640, 0.659)],
)
def test_mooncake(data: Path, name: str, rows: int, prompt: int, output: int, listed: float, full: float) -> None:
    d = describe(load(data / "mooncake" / f"{name}_trace.jsonl.gz"))
    assert d["requests"] == rows
    assert (round(d["prompt_tokens"]["mean"]), round(d["output_tokens"]["mean"])) == (prompt, output)
    assert d["prefix"]["hit_share_listed"] == pytest.approx(listed, abs=5e-4)
    assert d["prefix"]["hit_share_full"] == pytest.approx(full, abs=6e-4)


def test_burstgpt_1_week_1_token_load(data: Path) -> None:
    path = data / "burstgpt" / "burstgpt1_week1_minute_tokens_per_s.csv.gz"
    minute, rate = np.loadtxt(path, delimiter=",", skiprows=1, unpack=True)
    found = tokens_per_second(minute * 60.0, np.rint(rate * 60.0).astype(np.int64))
    assert found["minutes"] == 10_080
    assert found["active_share"] == pytest.approx(6_366 / 10_080)
    assert found["mean"] == pytest.approx(28.0, abs=0.05)
    assert found["cv"] == pytest.approx(1.32, abs=0.005)
    assert list(found["autocorrelation"].values()) == pytest.approx([0.53, 0.42, 0.28, 0.28], abs=0.015)


def test_a_recorded_run_is_a_trace(data: Path) -> None:
    runs = data.parent / "vllm-runs"
    if not runs.is_dir():
        pytest.skip("SERVECAST_DATA has no vllm-runs/")
    folder = runs / "rtx4090-llama-3.1-8b-tp1"
    columns = {"arrival": "arrival_ns:ns", "prompt_tokens": "prompt_tokens", "output_tokens": "output_tokens"}
    workload = load(folder / "workload.csv", columns={**columns, "request_id": "id"})
    run = load(folder / "real_requests.csv")
    assert (len(workload), len(run)) == (300, 300)
    assert np.array_equal(run.prompt_tokens, workload.prompt_tokens)
    late = run.arrival - (workload.arrival + workload.source.origin)
    assert late.min() > -1e-6 and late.max() < 0.04  # the client was 0 to 37 ms late; times have microseconds
