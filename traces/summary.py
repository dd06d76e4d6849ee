"""A trace's description as text for a reader, from the numbers of `stats.describe`."""

from __future__ import annotations

from typing import Any


def summary(description: dict[str, Any]) -> str:
    """Some twenty lines; what a trace does not have is left out."""
    d = description
    gaps, days, load = d["interarrival"], d["days"], d["tokens_per_s"]
    lines = [
        f"{d['name']} ({d['format']}): {d['requests']:,} requests, {_n(d['requests_per_s'])} requests/s",
        f"  rows read {d['rows_read']:,}: failed {d['failed']:,} ({_percent(d['failed_share'])}), "
        f"dropped {d['dropped']:,}, duplicates kept {d['duplicates']:,}, out of order {d['reordered']:,}",
        f"  span {_duration(d['span_s'])}, {d['total_tokens']:,} tokens, {_n(d['mean_total_tokens'])} a request",
        "",
        f"{'tokens':<22}" + "".join(f"{name:>9}" for name in d["prompt_tokens"]),
        _row("prompt", d["prompt_tokens"]),
        _row("output", d["output_tokens"]),
        f"  correlation of the two {_n(d['length_correlation'])}",
        "",
        f"gaps between arrivals: CV {_n(gaps['cv'])}; in the {gaps['busy_hours']} busiest hours, which hold half "
        f"of the requests, CV {_n(gaps['busy_hour_cv'])}, Gamma shape {_n(gaps['gamma_shape'])}",
        f"tokens/s by minute: mean {_n(load['mean'])}, active minutes {_percent(load['active_share'])} "
        f"(mean {_n(load['active_mean'])}, p99.5 {_n(load['p99_5'])}, max {_n(load['max'])}), CV {_n(load['cv'])}",
        "  autocorrelation at "
        + ", ".join(f"{lag} min {_n(value)}" for lag, value in load["autocorrelation"].items() if value is not None),
    ]
    if days["count"] > 1:
        lines.append(
            f"requests a day: mean {_n(days['mean'])}, median {_n(days['median'])}, CV {_n(days['cv'])}, "
            f"min {days['min']:,}, max {days['max']:,} over {days['count']} days"
        )
    lines += ["", "requests/h by hour of day (None = not covered):", *_hours(d["hour_of_day"])]
    if (s := d["sessions"]) is not None:
        lines += [
            "",
            f"sessions: {s['count']:,}, {_n(s['turns_mean'])} turns on average ({_percent(s['single_share'])} single, "
            f"at most {s['turns_max']})",
            f"  gaps p50 {_n(s['gap_p50'])} s, mean {_n(s['gap_mean'])} s, p90 {_n(s['gap_p90'])} s",
        ]
    if (p := d["prefix"]) is not None:
        lines += [
            "",
            f"prefix blocks of {p['block_size']} tokens ({p['rule']}) that repeat an earlier one: "
            f"{_percent(p['hit_share_listed'])} of all listed, {_percent(p['hit_share_full'])} of the full ones",
        ]
    if d["groups"]:
        lines += ["", "by request class and model:"]
    for group in d["groups"]:
        name = " / ".join(str(group[key]) for key in ("request_class", "model") if key in group)
        lines.append(
            f"  {name:<30} {group['requests']:>10,} ({_percent(group['share'])}), mean tokens "
            f"{_n(group['prompt_tokens']['mean'])} + {_n(group['output_tokens']['mean'])}"
        )
    return "\n".join(lines)


def _row(name: str, values: dict[str, float | None]) -> str:
    return f"  {name:<20}" + "".join(f"{_n(value):>9}" for value in values.values())


def _hours(rates: list[float | None]) -> list[str]:
    return ["  " + " ".join(f"{_n(rate):>7}" for rate in rates[first : first + 12]) for first in (0, 12)]


def _n(value: float | None) -> str:
    if value is None:
        return "None"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _percent(share: float | None) -> str:
    return "None" if share is None else f"{share:.1%}"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.3g} s"
