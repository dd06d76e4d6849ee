"""Fit a generator's parameter file to a request table."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .columns import Floats, Ints
from .files import replacing_text
from .fit_sessions import history_and_growth, sharpened, turn_numbers
from .laws import Quantiles, mean_tokens
from .modulation import day_factors, step_rate
from .spec import DAY, Profile, Sessions, Spec, StreamSpec
from .stats import session_gaps, session_order, split
from .table import RequestTable

HOUR = 3_600.0
STEPS = (10.0, 60.0, 300.0, 900.0, HOUR)  # seconds; the step of a short trace's profile is the first that fits
ROWS_PER_STEP = 5  # below this a step's rate is mostly noise
MOST_STEPS = 1_500  # values a parameter file should not exceed
LONG = 2 * DAY  # from here on a trace has an hour-of-day profile and day factors
PROBABILITIES = (*(i / 100 for i in range(100)), 0.995, 0.999, 0.9999, 1.0)


def fit(table: RequestTable) -> dict[str, Any]:
    """The parameters (kind `burst`) of a generator whose traces look like `table`.

    One stream per request class and model. Rates: steps of 10 s to 1 h over the whole of a short trace, an
    hour-of-day profile and one factor a day from two days on. Gaps: Gamma, with the variance that is left on the
    clock of the fitted rate. Lengths, turns, gaps between turns and new text: quantile tables. Raises
    `InputError` for a table without a span of time.
    """
    if len(table) < 2 or table.arrival[-1] <= table.arrival[0]:
        raise InputError(table.source.name, "all requests arrive at once", "a trace over some time")
    duration = float(math.floor(table.arrival[-1])) + 1.0
    spec = Spec("burst", "fit", (), duration, starts_at=float(table.source.origin % DAY))
    labels = {name: column for name in ("request_class", "model") if (column := getattr(table, name)) is not None}
    streams = []
    for names, rows in split(table, labels):
        given = {name: value for name, value in names.items() if value is not None}
        streams.append({"name": "/".join(given.values()) or "all", **given, **_stream(spec, table.take(rows))})
    return {
        "kind": "burst",
        "source": f"fitted to {table.source.name}, {len(table)} requests",
        "duration": duration,
        "starts_at": spec.starts_at,
        "streams": streams,
    }


def write_params(params: dict[str, Any], path: str | Path) -> None:
    """Write parameters as YAML, lists on one line."""
    import yaml

    with replacing_text(Path(path)) as text:
        yaml.safe_dump(params, text, default_flow_style=None, sort_keys=False, width=120)


def _stream(spec: Spec, table: RequestTable) -> dict[str, Any]:
    order = session_order(table)
    codes = table.session.codes[order] if table.session is not None else order
    follows = np.flatnonzero(codes[1:] == codes[:-1]) + 1  # places in `order` of second and later turns
    begins = np.setdiff1d(np.arange(len(table)), order[follows])
    answered = table.output_tokens > 0
    firsts = begins[answered[begins]]
    if len(firsts) == 0:
        raise InputError(table.source.name, "a class and model without any answered request", "at least one")
    params: dict[str, Any] = {
        "prompt_tokens": _quantiles(table.prompt_tokens[firsts]),
        "output_tokens": _quantiles(table.output_tokens[answered]),
        "length_correlation": _score_correlation(table.prompt_tokens[firsts], table.output_tokens[firsts]),
    }
    if not answered.all():
        params["failures"] = _rounded(1.0 - answered.mean())
    sessions = None
    if len(follows):
        params["sessions"] = _sessions(table, order, turn_numbers(order, follows))
        turns, gap, growth = (Quantiles(**params["sessions"][key]["quantiles"]) for key in ("turns", "gap", "growth"))
        sessions = Sessions(turns, gap, growth)
    return _arrivals(spec, table.arrival[begins], table.arrival, sessions) | params


def _sessions(table: RequestTable, order: Ints, turn: Ints) -> dict[str, Any]:
    """`order` holds the rows with a session; the others count as sessions of one turn."""
    history, growth = history_and_growth(table.prompt_tokens[order], table.output_tokens[order], turn)
    last = np.append(turn[1:] == 0, True)
    return {
        "turns": _quantiles(np.concatenate([turn[last] + 1, np.ones(len(table) - len(order))])),
        "gap": _quantiles(session_gaps(table)),
        "growth": _quantiles(growth),
        "window": int(table.prompt_tokens.max()),
        "history": history,
    }


def _arrivals(spec: Spec, begins: Floats, all_rows: Floats, sessions: Sessions | None) -> dict[str, Any]:
    """Rate, profile, day factors and Gamma shape from the times at which requests (or sessions) begin."""
    params: dict[str, Any] = {}
    stream = StreamSpec("fit", 1.0)
    rows = float(len(all_rows))
    if spec.duration >= LONG:
        stream = StreamSpec("fit", 1.0, profile=_profile(spec, HOUR, 24, _counts(spec, begins, HOUR)))
        usual = step_rate(spec, stream, np.ones(1), 0.0, spec.duration)
        edges = np.arange(math.floor(spec.starts_at / DAY), math.ceil((spec.starts_at + spec.duration) / DAY) + 1)
        expected = np.diff(np.interp(edges * DAY - spec.starts_at, usual.edges, usual.expected()))
        factors = _counts(spec, begins, DAY) / np.maximum(expected, 1e-9)
        params["days"] = {"factors": [_rounded(factor / factors.mean()) for factor in factors.tolist()]}
        stream = StreamSpec("fit", 1.0, profile=stream.profile, day_factors=tuple(factors.tolist()))
    else:
        fine = (s for s in STEPS if len(begins) * s >= ROWS_PER_STEP * spec.duration <= MOST_STEPS * s * ROWS_PER_STEP)
        seconds = next(fine, HOUR)
        counts = _counts(spec, begins, seconds)
        if sessions is not None:
            covered = _covered(spec, len(counts), seconds) / seconds
            requests = _counts(spec, all_rows, seconds) / covered
            counts = sharpened(counts / covered, requests, sessions, seconds) * covered
            rows = float(counts.sum()) * mean_tokens(sessions.turns)  # with the turns that the trace's end cuts off
        stream = StreamSpec("fit", 1.0, profile=_profile(spec, seconds, len(counts), counts))
    assert stream.profile is not None
    rate = step_rate(spec, stream, day_factors(spec, stream, 0), 0.0, spec.duration)
    expected = rate.expected()
    gaps = np.diff(np.interp(begins, rate.edges, expected))
    enough = len(gaps) >= ROWS_PER_STEP and gaps.any()
    shape = float(np.clip((gaps.mean() / gaps.std()) ** 2, 0.005, 50.0)) if enough else 1.0
    mean = sum(stream.profile.values) / len(stream.profile.values)
    values = [_rounded(value / mean) for value in stream.profile.values]
    return {
        "rate": _rounded(rows / expected[-1]),
        "gamma_shape": _rounded(shape),
        "profile": {"seconds": stream.profile.seconds, "values": values},
    } | params


def _counts(spec: Spec, times: Floats, seconds: float) -> Floats:
    """Events in each step of the clock that the trace touches."""
    first = math.floor(spec.starts_at / seconds)
    steps = math.ceil((spec.starts_at + spec.duration) / seconds) - first
    place = np.floor((times + spec.starts_at) / seconds).astype(np.int64) - first
    return np.bincount(np.minimum(place, steps - 1), minlength=steps).astype(np.float64)


def _profile(spec: Spec, seconds: float, period: int, counts: Floats) -> Profile:
    """The rate (1/s) in each of `period` repeating steps, by the time that the trace covers of it."""
    place = (math.floor(spec.starts_at / seconds) + np.arange(len(counts))) % period
    covered = np.bincount(place, weights=_covered(spec, len(counts), seconds), minlength=period)
    events = np.bincount(place, weights=counts, minlength=period)
    return Profile(seconds, tuple((events / np.maximum(covered, 1e-9)).tolist()))


def _covered(spec: Spec, steps: int, seconds: float) -> Floats:
    """Seconds of each step of the clock that lie in the trace; the first and the last may be cut."""
    edges = (math.floor(spec.starts_at / seconds) + np.arange(steps + 1)) * seconds - spec.starts_at
    return np.diff(np.clip(edges, 0.0, spec.duration))


def _quantiles(values: NDArray[Any]) -> dict[str, Any]:
    """A quantile table; no finer than the values can tell."""
    at = PROBABILITIES if len(values) > 100 else tuple(np.linspace(0.0, 1.0, max(2, len(values))).tolist())
    table = np.quantile(values, at)
    return {"quantiles": {"at": [_rounded(p) for p in at], "values": [_rounded(v) for v in table.tolist()]}}


def _score_correlation(x: NDArray[Any], y: NDArray[Any]) -> float:
    """The correlation of normal scores (ranks as quantiles of a normal)."""
    from scipy.special import ndtri

    if len(x) < ROWS_PER_STEP or x.min() == x.max() or y.min() == y.max():
        return 0.0
    scores = [ndtri((np.argsort(np.argsort(v, kind="stable")) + 0.5) / len(v)) for v in (x, y)]
    return _rounded(float(np.corrcoef(*scores)[0, 1]))


def _rounded(value: float) -> float:
    """Six significant digits: what a fit is worth."""
    return float(f"{value:.6g}")
