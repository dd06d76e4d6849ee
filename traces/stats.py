"""Describe a request table: rates, burstiness, lengths, sessions, token load, prefix sharing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .columns import Floats, Ints, Labels, PrefixBlocks
from .table import RequestTable

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0
LAGS = (1, 5, 60, 1440)  # minutes


def describe(table: RequestTable) -> dict[str, Any]:
    """What a trace looks like, as plain numbers (None where a statistic does not exist).

    Definitions. Quantiles are numpy's linear ones; standard deviations are those of the population; CV is
    standard deviation over mean. The clock is `source.origin` + arrival: hours and days are the source's own.

    - `hour_of_day`: requests per covered hour, by hour of the clock.
    - `days`: requests per clock day from the first to the last, days without requests included.
    - `interarrival.busy_hour_cv`: the busy hours are the fewest clock hours that together hold half of the
      requests; each one's CV of the gaps between its own requests, averaged with the number of gaps as weight.
      `gamma_shape` = 1 / busy_hour_cv**2.
    - `tokens_per_s`: prompt + output tokens of the requests arriving in a minute, / 60. Active minutes are those
      with a request; `active_mean`, `p99_5` and `max` are over these, `mean`, `cv` and `autocorrelation` (lags in
      minutes) over all.
    - `sessions`: gaps run from one turn's arrival to the next one's.
    - `prefix`: the share of block ids seen before, with a cache that keeps everything; `listed` counts all ids in
      the trace, `full` only those of full blocks.
    """
    span = float(table.arrival[-1] - table.arrival[0]) if len(table) else 0.0
    clock = table.arrival + table.source.origin
    tokens = table.prompt_tokens + table.output_tokens
    source = table.source
    return {
        "name": source.name,
        "format": source.format,
        "requests": len(table),
        "rows_read": source.rows,
        "failed": source.failed,
        "failed_share": _ratio(source.failed, source.rows),
        "dropped": source.dropped,
        "duplicates": source.duplicates,
        "reordered": source.reordered,
        "span_s": span,
        "requests_per_s": _ratio(len(table), span),
        "total_tokens": int(tokens.sum()),
        "mean_total_tokens": _ratio(float(tokens.sum()), len(table)),
        "prompt_tokens": spread(table.prompt_tokens),
        "output_tokens": spread(table.output_tokens),
        "length_correlation": _correlation(table.prompt_tokens, table.output_tokens),
        "interarrival": _interarrival(table.arrival, clock),
        "hour_of_day": hour_of_day(clock),
        "days": _days(clock),
        "tokens_per_s": tokens_per_second(table.arrival, tokens),
        "sessions": _sessions(table),
        "prefix": None if table.blocks is None else prefix_hits(table.blocks, table.prompt_tokens),
        "groups": _groups(table),
    }


def spread(values: NDArray[Any]) -> dict[str, float | None]:
    """Mean, quantiles and maximum of a column."""
    if len(values) == 0:
        return dict.fromkeys(("mean", "p50", "p90", "p95", "p99", "max"))
    p50, p90, p95, p99, top = np.percentile(values, [50, 90, 95, 99, 100]).tolist()
    return {"mean": float(values.mean()), "p50": p50, "p90": p90, "p95": p95, "p99": p99, "max": top}


def variation(values: NDArray[Any]) -> float | None:
    """Coefficient of variation: standard deviation over mean."""
    mean = float(values.mean()) if len(values) else 0.0
    return float(values.std()) / mean if mean else None


def hour_of_day(clock: Floats) -> list[float | None]:
    """Requests per covered hour for each hour of the day; None for an hour that the trace never sees."""
    counts = np.bincount(((clock % DAY) // HOUR).astype(np.int64), minlength=24)
    start, end = (float(clock[0]), float(clock[-1])) if len(clock) else (0.0, 0.0)
    hours = np.arange(24) * HOUR

    def before(moment: float) -> Floats:  # seconds of each hour of the day up to a moment
        return np.floor(moment / DAY) * HOUR + np.clip(moment % DAY - hours, 0.0, HOUR)

    covered = (before(end) - before(start)) / HOUR
    return [float(n / c) if c > 0 else None for n, c in zip(counts.tolist(), covered.tolist(), strict=True)]


def tokens_per_second(arrival: Floats, tokens: Ints) -> dict[str, Any]:
    """Tokens/s of each minute since the trace's zero."""
    minute = (arrival // MINUTE).astype(np.int64)
    load = np.bincount(minute, weights=tokens) / MINUTE if len(minute) else np.zeros(1)
    active = load[np.bincount(minute) > 0] if len(minute) else load
    return {
        "minutes": len(load),
        "active_share": len(active) / len(load),
        "mean": float(load.mean()),
        "active_mean": float(active.mean()),
        "p99_5": float(np.percentile(active, 99.5)),
        "max": float(active.max()),
        "cv": variation(load),
        "autocorrelation": {str(lag): _autocorrelation(load, lag) for lag in LAGS},
    }


def prefix_hits(blocks: PrefixBlocks, prompt_tokens: Ints) -> dict[str, Any]:
    """How many prompt blocks repeat an earlier one. Ids are chained, so none repeats within its own prompt."""
    counts = np.diff(blocks.offsets)
    place = np.arange(len(blocks.ids)) - np.repeat(blocks.offsets[:-1], counts)
    full = blocks.ids[place < np.repeat(prompt_tokens // blocks.size, counts)]
    return {
        "block_size": blocks.size,
        "rule": blocks.rule,
        "hit_share_listed": _ratio(len(blocks.ids) - len(np.unique(blocks.ids)), len(blocks.ids)),
        "hit_share_full": _ratio(len(full) - len(np.unique(full)), len(full)),
    }


def _interarrival(arrival: Floats, clock: Floats) -> dict[str, Any]:
    hour = (clock // HOUR).astype(np.int64)
    hours, index, counts = np.unique(hour, return_inverse=True, return_counts=True)
    gaps = np.diff(arrival)
    inside = hour[1:] == hour[:-1]
    place, values = index[1:][inside], gaps[inside]
    n = np.bincount(place, minlength=len(hours))
    total = np.bincount(place, weights=values, minlength=len(hours))
    squares = np.bincount(place, weights=values**2, minlength=len(hours))
    order = np.argsort(-counts, kind="stable")
    busy = order[: int(np.searchsorted(np.cumsum(counts[order]), len(arrival) / 2)) + 1]
    busy = busy[(n[busy] >= 2) & (total[busy] > 0)]
    cv = np.sqrt(np.maximum(squares[busy] * n[busy] / total[busy] ** 2 - 1.0, 0.0))
    busy_cv = float(np.average(cv, weights=n[busy])) if len(busy) else None
    return {
        "cv": variation(gaps),
        "busy_hours": len(busy),
        "busy_hour_cv": busy_cv,
        "gamma_shape": busy_cv**-2 if busy_cv else None,
    }


def _days(clock: Floats) -> dict[str, Any]:
    day = (clock // DAY).astype(np.int64)
    counts = np.bincount(day - day[0]) if len(day) else np.zeros(1, np.int64)
    return {
        "count": len(counts),
        "mean": float(counts.mean()),
        "median": float(np.median(counts)),
        "cv": variation(counts),
        "min": int(counts.min()),
        "max": int(counts.max()),
        "requests": counts.tolist(),
    }


def _sessions(table: RequestTable) -> dict[str, Any] | None:
    gaps, turns = session_gaps(table), None
    if table.session is not None:
        turns = np.bincount(table.session.codes[table.session.codes >= 0])
        turns = turns[turns > 0]
    if turns is None or len(turns) == 0:
        return None
    return {
        "count": len(turns),
        "turns_mean": float(turns.mean()),
        "single_share": float((turns == 1).mean()),
        "turns_max": int(turns.max()),
        "gap_p50": float(np.median(gaps)) if len(gaps) else None,
        "gap_mean": float(gaps.mean()) if len(gaps) else None,
        "gap_p90": float(np.percentile(gaps, 90)) if len(gaps) else None,
    }


def session_gaps(table: RequestTable) -> Floats:
    """Seconds from each turn of a session to the next one."""
    order = session_order(table)
    codes = table.session.codes[order] if table.session is not None else order
    return np.diff(table.arrival[order])[codes[1:] == codes[:-1]]


def session_order(table: RequestTable) -> NDArray[np.int64]:
    """The rows that belong to a session, session by session and in time within each."""
    if table.session is None:
        return np.zeros(0, np.int64)
    rows = np.flatnonzero(table.session.codes >= 0)
    return rows[np.argsort(table.session.codes[rows], kind="stable")]


def _groups(table: RequestTable) -> list[dict[str, Any]]:
    """Shares and lengths by request class and model, largest first."""
    labels = {n: getattr(table, n) for n in ("request_class", "model") if getattr(table, n) is not None}
    if not labels or len(table) == 0:
        return []
    groups = []
    for names, rows in split(table, labels):
        lengths = {
            "prompt_tokens": spread(table.prompt_tokens[rows]),
            "output_tokens": spread(table.output_tokens[rows]),
        }
        groups.append({**names, "requests": len(rows), "share": len(rows) / len(table), **lengths})
    return sorted(groups, key=lambda group: -group["requests"])


def split(table: RequestTable, labels: dict[str, Labels]) -> list[tuple[dict[str, str | None], NDArray[np.int64]]]:
    """The rows of each combination of names that occurs, with the names."""
    key = np.zeros(len(table), np.int64)
    for column in labels.values():
        key = key * (len(column.names) + 1) + column.codes + 1
    parts = []
    for value in np.unique(key).tolist():
        rows = np.flatnonzero(key == value)
        codes = {name: int(column.codes[rows[0]]) for name, column in labels.items()}
        parts.append(({name: labels[name].names[c] if c >= 0 else None for name, c in codes.items()}, rows))
    return parts


def _correlation(x: NDArray[Any], y: NDArray[Any]) -> float | None:
    if len(x) < 2 or x.std() == 0 or y.std() == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def _autocorrelation(x: Floats, lag: int) -> float | None:
    """The usual estimator: one mean and one variance, those of the whole series."""
    centred = x - x.mean()
    total = float((centred**2).sum())
    return float((centred[:-lag] * centred[lag:]).sum()) / total if len(x) > lag and total else None


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
