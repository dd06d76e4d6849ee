"""Generated traces: deterministic, the same whole or in chunks, with the rates, gaps and sessions asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servecast.errors import InputError
from servecast.traces.generate import closed_loop, generate, generate_chunks
from servecast.traces.load import load
from servecast.traces.modulation import day_factors
from servecast.traces.spec import build_spec
from servecast.traces.stats import describe, session_order

LENGTHS = {"prompt_tokens": {"constant": {"value": 100}}, "output_tokens": {"exponential": {"mean": 50}}}
STREAM: dict[str, Any] = {
    "name": "chat",
    "model": "m",
    "request_class": "chat",
    "rate": 0.05,
    "failures": 0.1,
    **LENGTHS,
    "sessions": {
        "turns": {"geometric": {"mean": 3}},
        "gap": {"exponential": {"mean": 100}},
        "growth": {"constant": {"value": 20}},
    },
}
BURST: dict[str, Any] = {
    "kind": "burst",
    "duration": 4.5 * 86_400,
    "starts_at": 3_600,
    "streams": [
        STREAM,
        {
            "name": "api",
            "tenant": "t",
            "rate": 0.1,
            "gamma_shape": 0.5,
            "profile": {"seconds": 3600, "values": [*range(1, 25)]},
            "days": {"cv": 1.1},
            "floods": {"every_days": 3, "days": [1, 2], "factor": [5, 10]},
            **LENGTHS,
        },
    ],
}


def test_a_trace_is_a_function_of_spec_and_seed() -> None:
    spec = build_spec(BURST)
    assert generate(spec, 1).fingerprint() == generate(spec, 1).fingerprint()
    assert generate(spec, 1).fingerprint() != generate(spec, 2).fingerprint()


def test_another_stream_does_not_move_the_draws_of_the_first() -> None:
    alone = generate(build_spec({**BURST, "streams": [STREAM]}), 1)
    both = generate(build_spec(BURST), 1)
    assert both.model is not None
    mine = both.take(both.model.codes >= 0)
    assert np.array_equal(mine.arrival, alone.arrival)
    assert np.array_equal(mine.output_tokens, alone.output_tokens)


@pytest.mark.parametrize("keep_failed", [False, True])
def test_chunks_are_the_whole(keep_failed: bool) -> None:
    spec = build_spec(BURST)
    whole = generate(spec, 7, keep_failed=keep_failed)
    chunks = list(generate_chunks(spec, 7, keep_failed=keep_failed))
    assert len(chunks) == 5
    for name, column in whole.columns().items():
        if name in ("session", "model", "tenant", "request_class"):
            assert [label for chunk in chunks for label in getattr(chunk, name)] == list(column)
        else:
            assert np.array_equal(np.concatenate([getattr(chunk, name) for chunk in chunks]), column)
    assert sum(chunk.source.failed for chunk in chunks) == whole.source.failed > 0
    assert whole.source.dropped == (0 if keep_failed else whole.source.failed)


def test_chunks_of_a_fast_trace_stay_small() -> None:
    spec = build_spec({"kind": "poisson", "rate": 100, "duration": 20_000, **LENGTHS})
    sizes = [len(chunk) for chunk in generate_chunks(spec)]
    assert sum(sizes) == pytest.approx(2_000_000, rel=0.01)
    assert max(sizes) < 260_000


@pytest.mark.parametrize(
    ("given", "cv"), [({"kind": "poisson"}, 1.0), ({"kind": "gamma", "cv": 3}, 3.0), ({"kind": "constant"}, 0.0)]
)
def test_simple_kinds(given: dict[str, Any], cv: float) -> None:
    table = generate(build_spec({**given, "rate": 4, "requests": 20_000, **LENGTHS}), 5)
    assert len(table) == 20_000
    d = describe(table)
    assert d["requests_per_s"] == pytest.approx(4.0, rel=0.06)
    assert d["interarrival"]["cv"] == pytest.approx(cv, rel=0.05, abs=1e-6)
    assert d["output_tokens"]["mean"] == pytest.approx(50, rel=0.03)
    assert set(table.prompt_tokens.tolist()) == {100}
    assert table.arrival.tolist() == np.round(table.arrival, 9).tolist()


def test_duration_bounds_the_trace() -> None:
    table = generate(build_spec({"kind": "poisson", "rate": 2, "duration": 500, **LENGTHS}), 5)
    assert len(table) == pytest.approx(1000, rel=0.1) and table.arrival[-1] < 500


def test_burst_has_profile_days_and_floods() -> None:
    spec = build_spec({**BURST, "duration": 61 * 86_400, "starts_at": 0})
    api = generate(spec, 3, keep_failed=True)
    assert api.tenant is not None
    d = describe(api.take(api.tenant.codes >= 0))
    assert d["days"]["mean"] == pytest.approx(8640, rel=0.03)  # `rate` is the mean over the trace
    assert d["days"]["cv"] > 1.0 and d["days"]["max"] > 5 * d["days"]["median"]
    rates = np.array(d["hour_of_day"])
    assert rates / rates.mean() == pytest.approx(np.arange(1, 25) / 12.5, rel=0.12)


def test_day_factors_have_the_spread_of_their_law() -> None:
    days = {"kind": "burst", "duration": 200 * 86_400}
    spec = build_spec({**days, "streams": [{"name": "a", "rate": 1, "days": {"cv": 1.1}, **LENGTHS}]})
    spreads = [day_factors(spec, spec.streams[0], seed).std() for seed in range(20)]
    assert np.mean(spreads) == pytest.approx(1.1, rel=0.1) and np.std(spreads) < 0.15
    listed = build_spec({**days, "streams": [{"name": "a", "rate": 1, "days": {"factors": [1, 3]}, **LENGTHS}]})
    assert day_factors(listed, listed.streams[0], 0)[:4].tolist() == [0.5, 1.5, 0.5, 1.5]


def test_floods_keep_their_number_length_and_height() -> None:
    floods = {"every_days": 10, "days": [1, 2], "factor": [5, 10]}
    stream = {"name": "a", "rate": 1, "floods": floods, **LENGTHS}
    spec = build_spec({"kind": "burst", "duration": 1000 * 86_400, "streams": [stream]})
    factors = day_factors(spec, spec.streams[0], 1)
    relative = factors / factors.min()
    flooded = relative > 1.0
    assert flooded.sum() == pytest.approx(150, rel=0.12)  # 100 episodes of 1.5 days, some of which overlap
    assert relative[flooded].min() >= 5.0 and relative.max() <= 10.0
    assert factors.mean() == pytest.approx(1.0)


def test_sessions_carry_their_history() -> None:
    stream = {**STREAM, "rate": 1.0, "failures": 0.0}
    stream["sessions"] = {**STREAM["sessions"], "history": 2, "window": 400}
    table = generate(build_spec({"kind": "burst", "duration": 40_000, "streams": [stream]}), 2)
    assert table.session is not None
    order = session_order(table)
    codes, prompt, output = table.session.codes[order], table.prompt_tokens[order], table.output_tokens[order]
    full = 0
    for code in range(len(table.session.names)):
        rows = np.flatnonzero(codes == code)
        if prompt[rows[0]] != 100:
            continue  # under way when the trace began
        for i, row in enumerate(rows):
            said = [100 if j == 0 else 20 for j in range(i + 1)]
            kept = range(max(0, i - 2), i)
            expected = said[i] + sum(said[j] + output[rows[j]] for j in kept)
            assert prompt[row] == min(expected, 400)
            full += prompt[row] == 400
    assert full > 50
    d = describe(table)
    assert d["sessions"]["turns_mean"] == pytest.approx(3.0, rel=0.05)
    assert d["sessions"]["gap_mean"] == pytest.approx(100, rel=0.05)
    assert d["requests"] == pytest.approx(40_000, rel=0.05)


def test_a_trace_begins_amid_its_sessions() -> None:
    """The first minutes of a trace of conversations are as busy as later ones."""
    table = generate(build_spec({"kind": "burst", "duration": 3000, "streams": [{**STREAM, "rate": 10.0}]}), 2)
    counts = np.histogram(table.arrival, np.arange(0, 3001, 100))[0]
    assert counts[:3].mean() == pytest.approx(counts.mean(), rel=0.1)


def test_failed_requests_have_no_tokens() -> None:
    stream = {"name": "a", "rate": 1, "failures": 0.1, **LENGTHS}
    spec = build_spec({"kind": "burst", "duration": 20_000, "streams": [stream]})
    table = generate(spec, 1, keep_failed=True)
    failed = table.output_tokens == 0
    assert failed.mean() == pytest.approx(0.1, abs=0.01)
    assert np.array_equal(table.prompt_tokens == 0, failed)
    assert len(generate(spec, 1)) == len(table) - failed.sum()


def test_lengths_from_another_trace(tmp_path: Path) -> None:
    (tmp_path / "lengths.csv").write_text("p,d\n10,1\n20,2\n30,3\n")
    lengths = {"from": "lengths.csv", "columns": {"prompt_tokens": "p", "output_tokens": "d"}}
    data = {"kind": "poisson", "rate": 1, "requests": 3000, "lengths": lengths}
    table = generate(build_spec(data, base=tmp_path), 1)
    assert np.array_equal(table.prompt_tokens, table.output_tokens * 10)  # rows are drawn whole
    assert np.bincount(table.output_tokens)[1:] == pytest.approx([1000] * 3, rel=0.1)


def test_llumnix_lengths_in_any_kind() -> None:
    lengths = {side: {"llumnix": {"mean": 256}} for side in ("prompt_tokens", "output_tokens")}
    table = generate(build_spec({"kind": "gamma", "cv": 4, "rate": 8, "requests": 50_000, **lengths}), 1)
    assert table.prompt_tokens.mean() == pytest.approx(256, rel=0.03)
    assert table.output_tokens.max() <= 6144


def test_closed_loop() -> None:
    think = {"exponential": {"mean": 2}}
    data = {"kind": "closed_loop", "users": 8, "think_time": think, "requests": 5000, "tenant": "x", **LENGTHS}
    spec = build_spec(data)
    loop = closed_loop(spec, 1)
    assert (loop.users, len(loop.requests), len(loop.think_time)) == (8, 5000, 5000)
    assert set(loop.requests.arrival.tolist()) == {0.0}
    assert loop.think_time.mean() == pytest.approx(2.0, rel=0.05)
    assert loop.requests.tenant is not None and set(loop.requests.tenant) == {"x"}
    assert closed_loop(spec, 1).requests.fingerprint() == loop.requests.fingerprint()
    with pytest.raises(InputError, match="closed loop has no arrival times"):
        generate(spec)
    with pytest.raises(InputError, match="kind closed_loop"):
        closed_loop(build_spec({"kind": "poisson", "rate": 1, "requests": 5, **LENGTHS}))


def test_load_accepts_a_parameter_file(tmp_path: Path) -> None:
    import yaml

    path = tmp_path / "spec.txt"
    path.write_text("# a comment first\n" + yaml.safe_dump(BURST, sort_keys=False))
    table = load(path, seed=4)
    assert table.fingerprint() == generate(build_spec(BURST), 4).fingerprint()
    assert (table.source.name, table.source.format, table.source.origin) == ("spec.txt", "burst", 3600.0)
    assert load(path, seed=4, keep_failed=True).source.dropped == 0


def test_nothing_generated_is_an_error() -> None:
    with pytest.raises(InputError, match="no request falls into the trace"):
        generate(build_spec({"kind": "poisson", "rate": 1e-9, "duration": 1, **LENGTHS}))
