"""fit -> generate -> describe comes back to within 10 % on length quantiles, hourly rates and CVs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from servecast.errors import InputError
from servecast.traces.columns import Labels
from servecast.traces.fit import fit, write_params
from servecast.traces.fit_sessions import history_and_growth, turn_numbers
from servecast.traces.generate import generate
from servecast.traces.load import load
from servecast.traces.spec import build_spec
from servecast.traces.stats import describe
from servecast.traces.table import RequestTable

SAMPLE = Path(__file__).parents[2] / "traces" / "samples" / "chat-sample.jsonl.gz"
QUANTILES = ("p50", "p90", "p95", "p99")


def averaged(table: RequestTable, seeds: int) -> dict[str, Any]:
    """Means over several generated traces, since one draw of few requests is noise."""
    spec = build_spec(fit(table))
    found = [describe(generate(spec, seed, keep_failed=True)) for seed in range(seeds)]
    mean: dict[str, Any] = {}
    for side in ("prompt_tokens", "output_tokens"):
        mean[side] = {key: np.mean([d[side][key] for d in found]) for key in QUANTILES}
    mean["interarrival"] = {key: np.mean([d["interarrival"][key] for d in found]) for key in ("cv", "busy_hour_cv")}
    mean["hour_of_day"] = np.mean([[rate or 0.0 for rate in d["hour_of_day"]] for d in found], axis=0)
    mean["requests"] = np.mean([d["requests"] for d in found])
    return mean


def assert_close(table: RequestTable, seeds: int, quantiles: tuple[str, ...] = QUANTILES, quiet: float = 0.0) -> None:
    """`quiet` : hours below this share of the busiest one are only part of the sum at the end."""
    original, found = describe(table), averaged(table, seeds)
    assert found["requests"] == pytest.approx(original["requests"], rel=0.05)
    for side in ("prompt_tokens", "output_tokens"):
        for key in quantiles:
            assert found[side][key] == pytest.approx(original[side][key], rel=0.1), (side, key)
    for key in ("cv", "busy_hour_cv"):
        assert found["interarrival"][key] == pytest.approx(original["interarrival"][key], rel=0.1), key
    rates = np.array([rate or 0.0 for rate in original["hour_of_day"]])
    busy = rates > quiet * rates.max()
    assert found["hour_of_day"][busy] == pytest.approx(rates[busy], rel=0.1)
    assert np.abs(found["hour_of_day"] - rates).sum() < 0.1 * rates.sum()


def test_the_bundled_sample() -> None:
    assert_close(load(SAMPLE), seeds=4)


def long_table() -> RequestTable:
    """A made-up week: an hour profile, uneven days, two streams of which one has conversations."""
    lengths = {
        "prompt_tokens": {"lognormal": {"median": 300, "sigma": 0.8}},
        "output_tokens": {"lognormal": {"median": 150, "sigma": 0.6}},
        "failures": 0.02,
    }
    sessions = {
        "turns": {"geometric": {"mean": 2.5}},
        "gap": {"lognormal": {"median": 120, "sigma": 1.0}},
        "growth": {"lognormal": {"median": 60, "sigma": 0.8}},
        "history": 4,
    }
    profile = {"seconds": 3600, "values": [2, 1, 1, 1, 1, 2, 4, 6, 8, 9, 10, 10, 9, 9, 10, 9, 8, 7, 6, 6, 5, 4, 3, 2]}
    chat = {"name": "chat", "request_class": "chat", "rate": 0.1, "profile": profile, "sessions": sessions, **lengths}
    bursty = {"gamma_shape": 0.5, "days": {"cv": 0.8}, "length_correlation": 0.5}
    api = {"name": "api", "request_class": "api", "rate": 0.2, "profile": profile, **bursty, **lengths}
    streams = [chat, api]
    return generate(build_spec({"kind": "burst", "duration": 7 * 86_400, "streams": streams}), 1, keep_failed=True)


def test_a_week_with_days_and_conversations() -> None:
    table = long_table()
    assert_close(table, seeds=1)
    again = generate(build_spec(fit(table)), 5, keep_failed=True)
    before, after = describe(table), describe(again)
    assert after["days"]["cv"] == pytest.approx(before["days"]["cv"], rel=0.1)
    assert after["sessions"]["turns_mean"] == pytest.approx(before["sessions"]["turns_mean"], rel=0.1)
    assert after["sessions"]["gap_p50"] == pytest.approx(before["sessions"]["gap_p50"], rel=0.1)
    assert after["length_correlation"] == pytest.approx(before["length_correlation"], abs=0.05)
    share = np.mean(again.output_tokens == 0)
    assert share == pytest.approx(np.mean(table.output_tokens == 0), rel=0.1)


def test_azure(data: Path) -> None:
    for name in ("code", "conv"):
        assert_close(load(data / "azure" / f"AzureLLMInferenceTrace_{name}.csv.gz"), seeds=3)


def test_burstgpt(data: Path) -> None:
    for name in ("burstgpt_slice", "burstgpt3_slice"):  # 400 rows: 4 of them make the p99, and quiet hours have 1 to 20
        table = load(data / "burstgpt" / f"{name}.csv")
        assert_close(table, seeds=60, quantiles=("p50", "p90", "p95"), quiet=0.15)


def test_burstgpt_3_prompts_repeat_four_exchanges(data: Path) -> None:
    params = fit(load(data / "burstgpt" / "burstgpt3_slice.csv"))
    by_name = {stream["name"]: stream for stream in params["streams"]}
    assert by_name["Conversation log/ChatGPT"]["sessions"]["history"] == 4


@pytest.mark.parametrize("history", [1, 3, 10_000])
def test_the_history_of_a_conversation_is_found(history: int) -> None:
    rng = np.random.default_rng(1)
    turn, prompt, output, texts = [], [], [], []
    for _ in range(50):
        text, answer = rng.integers(10, 200, 20), rng.integers(10, 200, 20)
        for i in range(20):
            turn.append(i)
            kept = range(max(0, i - history), i)
            prompt.append(int(text[i]) + sum(int(text[j] + answer[j]) for j in kept))
            output.append(int(answer[i]))
            texts += [int(text[i])] if i else []
    found, growth = history_and_growth(np.array(prompt), np.array(output), np.array(turn))
    assert found == history
    assert growth.tolist() == texts


def test_turn_numbers() -> None:
    order, follows = np.array([3, 4, 7, 1, 0, 2]), np.array([1, 2, 5])
    assert turn_numbers(order, follows).tolist() == [0, 1, 2, 0, 0, 1]


def test_a_fit_is_a_parameter_file(tmp_path: Path) -> None:
    params = fit(load(SAMPLE))
    write_params(params, tmp_path / "fit.yaml")
    assert yaml.safe_load((tmp_path / "fit.yaml").read_text()) == params
    again = load(tmp_path / "fit.yaml", seed=3)
    assert again.fingerprint() == generate(build_spec(params), 3).fingerprint()
    assert {stream["name"] for stream in params["streams"]} == {"api", "chat"}


def test_tiny_tables_fit_or_say_why() -> None:
    ones = np.array([5, 5])
    together = RequestTable(np.zeros(2), ones, ones)
    with pytest.raises(InputError, match="all requests arrive at once"):
        fit(together)
    two = RequestTable(np.array([0.0, 10.0]), ones, ones, model=Labels.of(["a", "b"]))
    table = generate(build_spec(fit(two)), 0)
    assert set(table.prompt_tokens.tolist()) == {5}
    failed = RequestTable(
        np.array([0.0, 1.0, 2.0]), np.array([5, 0, 5]), np.array([5, 0, 5]), model=Labels.of(["a", "b", "a"])
    )
    with pytest.raises(InputError, match="without any answered request"):
        fit(failed)
