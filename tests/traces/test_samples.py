"""The bundled files: the sample is what its parameters generate, and the burst defaults look like BurstGPT.

The published figures are those of the BurstGPT files (HPMLL/BurstGPT), computed from the rows or stated by public
repositories that read the whole file. Two 400-row slices bound what is known of conversations.
"""

from __future__ import annotations

import gzip
import time
from pathlib import Path

import numpy as np
import pytest

from servecast.traces.generate import generate
from servecast.traces.load import load
from servecast.traces.modulation import day_factors
from servecast.traces.spec import load_spec
from servecast.traces.stats import describe
from servecast.traces.table import RequestTable
from servecast.traces.transform import where
from servecast.traces.write import write

SAMPLES = Path(__file__).parents[2] / "traces" / "samples"
ROWS, DAYS = 1_429_737, 61
# Mean requests per hour of day of BurstGPT_1.
HOURS = [940.3, 892.6, 571.6, 513.0, 368.2, 341.5, 193.8, 153.3, 177.7, 415.9, 878.8, 1286.5]
HOURS += [1744.3, 1501.1, 1795.9, 1401.1, 1475.5, 1355.8, 1181.2, 1567.6, 1352.8, 1175.0, 1129.0, 1025.8]


def test_the_sample_is_what_its_parameters_generate(tmp_path: Path) -> None:
    write(load(SAMPLES / "chat-sample.yaml", seed=7), tmp_path / "again.jsonl.gz")
    # the text, not the gzip bytes: those depend on the zlib that Python was built with
    again = gzip.decompress((tmp_path / "again.jsonl.gz").read_bytes())
    assert again == gzip.decompress((SAMPLES / "chat-sample.jsonl.gz").read_bytes())


def test_the_sample_is_a_good_demo() -> None:
    d = describe(load(SAMPLES / "chat-sample.jsonl.gz"))
    assert 8.0 <= d["requests_per_s"] <= 12.0
    assert 20 * 60 <= d["span_s"] + 5 <= 30 * 60
    assert {group["request_class"] for group in d["groups"]} == {"chat", "api"}
    assert d["sessions"]["turns_mean"] > 2.0
    assert d["prompt_tokens"]["max"] + d["output_tokens"]["max"] < 16_384
    assert (SAMPLES / "chat-sample.jsonl.gz").stat().st_size < 300_000


@pytest.fixture(scope="module")
def burst() -> RequestTable:
    """All of the default trace, failed requests included: 61 days, generated in seconds."""
    start = time.perf_counter()
    table = generate(load_spec(SAMPLES / "burstgpt.yaml"), 1, keep_failed=True)
    assert time.perf_counter() - start < 30.0
    return table


def test_rows_days_and_failures(burst: RequestTable) -> None:
    d = describe(burst)
    assert d["requests"] == pytest.approx(ROWS, rel=0.01)
    assert d["days"]["count"] == DAYS
    assert d["days"]["mean"] == pytest.approx(23_438, rel=0.01)
    assert d["failed_share"] == pytest.approx(0.0178, abs=5e-4)
    assert d["mean_total_tokens"] == pytest.approx(733.9, rel=0.03)


def test_day_to_day_spread() -> None:
    """Median, CV and maximum of requests a day, over many seeds: one trace of 61 days is one draw."""
    spec = load_spec(SAMPLES / "burstgpt.yaml")
    days = [sum(day_factors(spec, s, seed) * s.rate * 86_400 for s in spec.streams) for seed in range(200)]
    assert np.median([np.median(d) for d in days]) == pytest.approx(14_457, rel=0.1)
    assert np.median([np.std(d) / np.mean(d) for d in days]) == pytest.approx(1.13, rel=0.1)
    assert np.median([np.max(d) for d in days]) == pytest.approx(149_520, rel=0.15)


def test_hour_of_day(burst: RequestTable) -> None:
    rates = describe(burst)["hour_of_day"]
    assert rates == pytest.approx(HOURS, rel=0.05)
    assert int(np.argmax(rates)) == 14 and int(np.argmin(rates)) == 7
    assert max(rates) / min(rates) == pytest.approx(11.7, rel=0.05)


def test_burstiness_inside_an_hour(burst: RequestTable) -> None:
    assert 1.0 <= describe(burst)["interarrival"]["busy_hour_cv"] <= 1.13


def test_shares_of_models_and_services(burst: RequestTable) -> None:
    """Of the answered requests: ChatGPT 1,189,167, GPT-4 215,127, API 1,258,587, conversation 145,707."""
    answered = burst.take(burst.output_tokens > 0)
    for condition, rows in {
        "model=ChatGPT": 1_189_167,
        "model=GPT-4": 215_127,
        "class=API log": 1_258_587,
        "class=Conversation log": 145_707,
    }.items():
        assert len(where(answered, condition)) == pytest.approx(rows, rel=0.03), condition


def test_conversation_lengths_lie_between_the_two_slices(burst: RequestTable) -> None:
    d = describe(where(burst.take(burst.output_tokens > 0), "class=Conversation log"))
    published = {
        "prompt_tokens": {"mean": (544, 619), "p50": (309, 353), "p90": (1134, 1437)},
        "output_tokens": {"mean": (171, 289), "p50": (101, 238), "p90": (435, 586)},
    }
    slack = {"mean": 0.05, "p50": 0.2, "p90": 0.05}
    for side, bounds in published.items():
        for key, (low, high) in bounds.items():
            assert low * (1 - slack[key]) <= d[side][key] <= high * (1 + slack[key]), (side, key)


def test_conversations_have_the_published_turns_and_gaps(burst: RequestTable) -> None:
    sessions = describe(burst)["sessions"]
    assert sessions["turns_mean"] == pytest.approx(2.92, rel=0.05)
    assert sessions["single_share"] == pytest.approx(0.44, abs=0.02)
    assert sessions["turns_max"] == 24
    assert sessions["gap_p50"] == pytest.approx(123, rel=0.05)
    assert sessions["gap_mean"] == pytest.approx(536, rel=0.05)
    assert sessions["gap_p90"] == pytest.approx(1447, rel=0.05)


def test_the_mix_of_the_first_60000_rows(burst: RequestTable) -> None:
    """54 % ChatGPT API requests (the first flood) and 46 % conversation; the two slices of conversation disagree
    with these rows (their responses alone would make the mean 133), so the bounds are wide."""
    answered = burst.take(burst.output_tokens > 0)
    chat = where(answered, "class=Conversation log")
    api = where(where(answered, "class=API log"), "model=ChatGPT")
    n = round(len(chat) * 0.54 / 0.46)
    for side, mean, p50, p90, p99 in (("prompt_tokens", 374, 74, 1291, 3023), ("output_tokens", 122, 14, 401, 757)):
        mixed = np.concatenate([getattr(api, side)[:n], getattr(chat, side)])
        found = [mixed.mean(), *np.percentile(mixed, [50, 90, 99])]
        assert found == pytest.approx([mean, p50, p90, p99], rel=0.2), side


def test_token_load_by_minute(burst: RequestTable) -> None:
    """All minutes: 1,049.26 M tokens in 61 days. Peaks within a factor of two: the true API is off for whole hours
    (31 % of its minutes are silent), which day factors and an hour profile do not reproduce."""
    load_by_minute = describe(burst)["tokens_per_s"]
    assert load_by_minute["mean"] == pytest.approx(1_049.26e6 / (DAYS * 86_400), rel=0.05)
    assert load_by_minute["active_mean"] == pytest.approx(287, rel=0.3)
    assert 3_670 / 2 <= load_by_minute["p99_5"] <= 3_670 * 2
    assert 7_311 / 2 <= load_by_minute["max"] <= 7_311 * 2
    correlation = load_by_minute["autocorrelation"]
    assert correlation["1"] > correlation["5"] > correlation["60"] > correlation["1440"] > 0.0
