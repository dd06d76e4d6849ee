"""A report as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_ROWS = (("ttft", "time to first token"), ("tpot", "time per output token"), ("itl", "inter-token latency"),
         ("e2el", "end-to-end latency"))  # fmt: skip
_OTHER_ENDS = {
    "rejected": "rejected because no replica can ever hold them",
    "cancelled": "cancelled by their clients",
    "unfinished": "unfinished at the end",
}
_COMPONENTS = ("queueing", "prefill", "decode", "interference", "preemption", "transfer", "host")


def table(report: dict[str, Any]) -> str:
    """The report in some thirty lines."""
    return "\n".join(_lines(report))


def _lines(r: dict[str, Any]) -> Iterator[str]:
    sim = r["simulation"]
    yield f"{sim['trace']} on {sim['plan']}: " + ", ".join(
        f"{p['accelerators']} x {p['cost_model']['hardware']} ({p['name']}, {p['engine']})" for p in sim["pools"]
    )
    ended = f"{r['completed']:,} of {r['num_prompts']:,} requests finished in {r['duration']:,.1f} s"
    others = [f"{r[key]:,} {why}" for key, why in _OTHER_ENDS.items() if r[key]]
    yield ended + (" (" + ", ".join(others) + ")" if others else "")
    if sim["source"]["dropped"]:
        yield f"{sim['source']['dropped']:,} failed requests of the trace were left out"
    yield (
        f"{_number(r['request_throughput'])} requests/s, {_number(r['output_throughput'])} output tokens/s, "
        f"{_number(r['total_token_throughput'])} tokens/s in all"
    )
    if r["usd_per_hour"] is not None:
        yield (
            f"${r['usd_per_hour']:,.2f}/h, ${_number(r['cost_per_1m_output_tokens'])} a million output tokens, "
            f"${_number(r['cost_per_1m_tokens'])} a million tokens (list prices unless the plan gives others)"
        )
    else:
        yield "no price known for this hardware: give `prices` in the plan"
    yield ""
    yield f"{'milliseconds':<24}" + "".join(f"{h:>11}" for h in ("mean", "p50", "p90", "p95", "p99"))
    for key, name in _ROWS:
        cells = [r[f"{s}_{key}_ms"] for s in ("mean", "p50", "p90", "p95", "p99")]
        yield f"{name:<24}" + "".join(f"{_number(c):>11}" for c in cells)
    parts = [(name, r[f"mean_{name}_ms"]) for name in _COMPONENTS]
    yield "where the time goes: " + ", ".join(f"{name} {_number(v)}" for name, v in parts if v)
    yield ""
    yield from _slo(r)
    if "programs" in r:
        yield from _programs(r["programs"])
    yield f"load: {sim['load']['verdict']} ({sim['load']['reason']})"
    for pool in sim["pools"]:
        busy = sum(pool["busy_share"]) / len(pool["busy_share"])
        how = "given" if pool["kv_capacity_given"] else "predicted"
        yield (
            f"{pool['name']}: KV cache {pool['kv_blocks']:,} blocks = {pool['kv_tokens']:,} tokens an engine ({how}), "
            f"busy {busy:.0%}, step times {_origin(pool)}"
        )
    yield (
        f"{sim['iterations']:,} iterations in {sim['engine_steps']:,} engine steps, mean decode batch "
        f"{sim['mean_decode_batch']:.1f}, {sim['preemptions']:,} preemptions, {sim['extrapolated_share']:.1%} of the "
        "time outside what was measured"
    )
    broken = [name for name, holds in sim["invariants"].items() if not holds]
    if broken:
        yield "BROKEN INVARIANTS (please report): " + "; ".join(broken)
    if "confidence" in r:
        yield from _confidence(r)


def _slo(r: dict[str, Any]) -> Iterator[str]:
    if "slo" not in r:
        return
    slo = r["slo"]
    yield f"goodput: {_number(slo['request_goodput'])} requests/s, {slo['goodput_of_offered']:.2%} of those offered"
    for metric, limit in slo["limits"].items():
        if limit["requests"]:
            yield f"  {limit['requests']:,} requests over {metric} {limit['limit_s']:g} s: {_why(limit)}"
    for objective in slo["objectives"]:
        value = "nothing to measure" if objective["value"] is None else f"{objective['value']:.4g}"
        why = f": {_why(objective)}" if objective.get("dominating") else ""
        yield f"  {'met   ' if objective['met'] else 'MISSED'} {objective['objective']} ({value}){why}"
    yield ""


def _programs(p: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{p['finished']:,} of {p['begun']:,} programs finished, {_number(p['calls_mean'])} calls each: completion "
        f"time mean {_number(p['mean_jct_ms'])}, p99 {_number(p['p99_jct_ms'])} ms, of which queueing between calls "
        f"{_number(p['mean_queueing_between_ms'])} and tools {_number(p['mean_gap_ms'])}"
    )
    if p["cached_share"] is not None:
        yield f"  prompt tokens: {p['cached_share']:.1%} cached, {p['recomputed_share']:.1%} computed a second time"
    if p["deadlines_met_share"] is not None:
        yield f"  deadlines met: {p['deadlines_met_share']:.1%}"


def _origin(pool: dict[str, Any]) -> str:
    label, shares = str(pool["cost_model"]["label"]), pool["time_shares"] or {}
    parts = [f"{share:.0%} {origin}" for origin, share in shares.items() if share]
    return f"{label} ({', '.join(parts)})" if parts else label


def _why(miss: dict[str, Any]) -> str:
    return f"mostly {miss['dominating']} ({miss['shares'][miss['dominating']]:.0%})"


def _confidence(r: dict[str, Any]) -> Iterator[str]:
    c = r["confidence"]
    yield ""
    yield f"95 % intervals over {c['seeds']} seeds:"
    for key in ("mean_ttft_ms", "p99_ttft_ms", "mean_tpot_ms", "p99_tpot_ms", "mean_e2el_ms", "request_throughput"):
        if key in c["figures"]:
            figure = c["figures"][key]
            yield f"  {key:<20} {_number(figure['mean'])} +- {_number(figure['half_width'])}"
    if all(figure["half_width"] == 0 for figure in c["figures"].values()):
        yield "  nothing in this run is random: a recorded trace on deterministic policies repeats exactly"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
