"""The statistics follow their written definitions, on tables made so that the answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from servecast.traces.columns import Labels, PrefixBlocks
from servecast.traces.load import load
from servecast.traces.stats import describe, hour_of_day, tokens_per_second
from servecast.traces.streams import Stream
from servecast.traces.summary import summary
from servecast.traces.table import RequestTable, Source


def table(arrival: Any, **columns: Any) -> RequestTable:
    n = len(arrival)
    tokens = {"prompt_tokens": np.full(n, 30), "output_tokens": np.full(n, 30)}
    return RequestTable(np.asarray(arrival, float), **{**tokens, **columns})


def test_rates_lengths_and_failures() -> None:
    source = Source("x", "burstgpt", rows=6, failed=2, dropped=1)
    columns = {"prompt_tokens": np.array([1, 2, 3, 4, 90]), "output_tokens": np.array([2, 4, 6, 8, 180])}
    d = describe(table([0.0, 1.0, 2.0, 3.0, 10.0], source=source, **columns))
    assert (d["requests"], d["span_s"], d["requests_per_s"]) == (5, 10.0, 0.5)
    assert d["failed_share"] == pytest.approx(1 / 3)
    lengths = {"mean": 20.0, "p50": 3.0, "p90": 55.6, "p95": 72.8, "p99": 86.56, "max": 90.0}
    assert d["prompt_tokens"] == pytest.approx(lengths)
    assert d["length_correlation"] == pytest.approx(1.0)
    assert d["interarrival"]["cv"] == pytest.approx(np.std([1, 1, 1, 7]) / 2.5)
    assert d["sessions"] is None and d["prefix"] is None and d["groups"] == []


def test_hour_of_day_counts_covered_time_on_the_source_clock() -> None:
    clock = np.array([1.0, 2.0, 3.0]) * 3600.0 + 1800.0  # 01:30, 02:30, 03:30
    rates = hour_of_day(clock)
    assert rates[0] is None and rates[4] is None
    assert rates[1:4] == [2.0, 1.0, 2.0]  # half an hour is covered of hours 1 and 3
    d = describe(table([0.0, 3600.0, 7200.0], source=Source(origin=86_400.0 * 5 + 5_400.0)))
    assert d["hour_of_day"] == rates


def test_days_include_the_empty_ones() -> None:
    d = describe(table([0.0, 1.0, 3 * 86_400.0]))["days"]
    assert (d["count"], d["mean"], d["median"], d["min"], d["max"]) == (4, 0.75, 0.5, 0, 2)
    assert d["requests"] == [2, 0, 0, 1]


def test_cv_inside_busy_hours_sees_no_drift_between_hours() -> None:
    gaps = Stream(1, "gaps")
    busy = np.cumsum(gaps.exponential(4000)) * (3500 / 4000)
    quiet = 3600.0 + np.cumsum(gaps.exponential(100)) * 30.0
    d = describe(table(np.concatenate([busy, quiet])))["interarrival"]
    assert d["cv"] > 2.0
    assert d["busy_hours"] == 1
    assert d["busy_hour_cv"] == pytest.approx(1.0, abs=0.05)
    assert d["gamma_shape"] == pytest.approx(d["busy_hour_cv"] ** -2)
    even = describe(table(np.arange(0, 7200, 2.0)))["interarrival"]
    assert even["cv"] == pytest.approx(0.0, abs=1e-9) and even["busy_hour_cv"] == pytest.approx(0.0, abs=1e-6)


def test_tokens_per_second_by_minute() -> None:
    load_by_minute = tokens_per_second(np.array([0.0, 59.0, 60.0, 200.0]), np.array([60, 60, 600, 1200]))
    assert load_by_minute["minutes"] == 4
    assert load_by_minute["active_share"] == 0.75
    assert load_by_minute["mean"] == pytest.approx((2 + 10 + 20) / 4)
    assert load_by_minute["active_mean"] == pytest.approx(32 / 3)
    assert load_by_minute["max"] == 20.0
    x = np.array([2.0, 10.0, 0.0, 20.0]) - 8.0
    assert load_by_minute["autocorrelation"]["1"] == pytest.approx((x[:-1] * x[1:]).sum() / (x * x).sum())
    assert load_by_minute["autocorrelation"]["60"] is None


def test_sessions_count_turns_and_gaps() -> None:
    names = ["a", None, "b", "a", "a", "c", "c"]
    d = describe(table([0.0, 1.0, 2.0, 10.0, 30.0, 31.0, 32.0], session=Labels.of(names)))["sessions"]
    assert (d["count"], d["turns_mean"], d["turns_max"]) == (3, 2.0, 3)
    assert d["single_share"] == pytest.approx(1 / 3)
    assert (d["gap_p50"], d["gap_mean"]) == (10.0, pytest.approx(31 / 3))


def test_prefix_hits_by_both_rules() -> None:
    blocks = PrefixBlocks.of(10, "ceil", [[1, 2, 3], [1, 2, 4], [1, 2, 3]])
    d = describe(table([0.0, 1.0, 2.0], prompt_tokens=np.array([25, 30, 25]), blocks=blocks))["prefix"]
    assert d["hit_share_listed"] == pytest.approx(5 / 9)  # [1, 2] and [1, 2, 3]
    assert d["hit_share_full"] == pytest.approx(4 / 7)  # the partial third block of rows 0 and 2 is left out


def test_groups_by_class_and_model() -> None:
    labels = {"request_class": Labels.of(["a", "a", "b", None]), "model": Labels.of(["m", "m", "m", "n"])}
    groups = describe(table([0.0, 1.0, 2.0, 3.0], **labels))["groups"]
    assert [(g["request_class"], g["model"], g["requests"]) for g in groups] == [
        ("a", "m", 2),
        (None, "n", 1),
        ("b", "m", 1),
    ]
    assert groups[0]["share"] == 0.5


def test_small_tables_have_no_infinite_statistics() -> None:
    import json

    for arrival in ([0.0], [0.0, 0.0], [5.0, 5.0, 6.0]):
        d = describe(table(arrival))
        assert "NaN" not in json.dumps(d) and "Infinity" not in json.dumps(d)
        assert str(len(arrival)) in summary(d)


def test_the_summary_shows_what_there_is(tmp_path: Any) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,374,44\n2023-11-16 18:15:47,396,109\n"
    )
    text = summary(describe(load(path)))
    assert "t.csv (azure): 2 requests" in text and "sessions" not in text and "prefix" not in text
