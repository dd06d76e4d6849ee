"""The report of one run: a flat dictionary in the shape of `vllm bench serve`, with a `simulation` block."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ...configs.slo import SLO
from ...costmodels.base import TICKS_PER_SECOND
from ...costmodels.energy import busy_watts, idle_watts
from ...costmodels.measured import ORIGINS
from ...costmodels.price import price_per_million_tokens
from ...errors import InputError
from ..deployment import Deployment
from ..run import EngineInfo, Run
from .attainment import attainment, groups
from .metrics import Finished, summary
from .overload import overload_verdict
from .programs import program_figures
from .services import paid_ticks, service_figures


def package_version() -> str:
    """The installed version of servecast."""
    try:
        return version("servecast")
    except PackageNotFoundError:  # a source tree that was never installed
        return "unknown"


def build_report(run: Run, slo: SLO | None = None, warmup: float = 0.0) -> dict[str, Any]:
    """Everything `report.json` holds. The same run gives the same report, byte for byte.

    warmup : seconds of arrivals to leave out of the statistics.
    """
    requests = Finished(run, warmup)
    if not len(requests.all_ends):
        raise InputError("--warmup", f"no request arrives after {warmup:g} s", "a warm-up shorter than the trace")
    figures = summary(run, requests)
    figures.update(_cost(run, figures))
    if slo:
        slo_block = attainment(run, requests, slo, figures)
        figures["request_goodput"] = slo_block["request_goodput"]
        figures["slo"] = slo_block
    by_group = groups(run, requests, slo)
    if by_group:
        figures["groups"] = by_group
    if run.table.programs is not None:
        figures["programs"] = program_figures(run)
    figures["simulation"] = _simulation(run, warmup)
    if run.services:
        figures["simulation"]["cluster"] = service_figures(run, requests)
    if run.front:
        figures["simulation"]["semantic_cache"] = run.front.figures()
    return figures


def _cost(run: Run, figures: dict[str, Any]) -> dict[str, Any]:
    prices = [_usd_per_hour(run, d) for d in run.deployments]
    usd = None if None in prices else sum(p for p in prices if p is not None)

    def per_million(throughput: float | None) -> float | None:
        return price_per_million_tokens(usd, throughput) if usd is not None and throughput else None

    return {
        "usd_per_hour": usd,
        "cost_per_1m_output_tokens": per_million(figures["output_throughput"]),
        "cost_per_1m_tokens": per_million(figures["total_token_throughput"]),
    }


def _usd_per_hour(run: Run, deployment: Deployment) -> float | None:
    """Of a pool; where it is scaled, of the replicas that it had on average."""
    usd = deployment.usd_per_hour
    if usd is None or run.services is None or not run.services.scalers or not run.duration:
        return usd
    paid = sum(paid_ticks(r, run.duration) for r in run.services.replicas if r.pool == deployment.pool.name)
    return usd * paid / run.duration / deployment.pool.replicas


def _simulation(run: Run, warmup: float) -> dict[str, Any]:
    busy = sum(e.busy for e in run.engines)
    iterations = decoded = 0
    for table in run.recorder.leaps:
        for c in table.slices():
            iterations += int(c["iterations"].sum())
            decoded += int((c["iterations"] * c["decodes"]).sum())
    return {
        "servecast": package_version(),
        "plan": run.plan.name,
        "plan_fingerprint": run.plan.fingerprint(),
        "trace": run.table.source.name,
        "trace_fingerprint": run.table.fingerprint(),
        "seed": run.seed,
        "warmup_s": warmup,
        "interrupted": run.interrupted,
        "load": overload_verdict(run),
        "invariants": run.invariants,
        "extrapolated_share": sum(e.outside for e in run.engines) / busy if busy else 0.0,
        "iterations": iterations,
        "engine_steps": run.leaps,
        "mean_decode_batch": decoded / iterations if iterations else 0.0,
        "preemptions": sum(e.preemptions for e in run.engines),
        "timeouts": run.timeouts,
        "truncated_by_max_model_len": run.truncated,
        "pools": [_pool(run, i) for i in range(len(run.deployments))],
        "source": dataclasses.asdict(run.table.source),
    }


def _pool(run: Run, number: int) -> dict[str, Any]:
    d = run.deployments[number]
    engines = [e for e in run.engines if e.pool == d.pool.name]
    span = run.duration / TICKS_PER_SECOND
    return {
        "name": d.pool.name,
        "replicas": d.pool.replicas,
        "accelerators": d.pool.accelerators,
        "engine": d.preset.name,
        "limits": d.limits.figures(),
        "kv_blocks": d.blocks,
        "kv_tokens": d.blocks * d.limits.block_size,
        "kv_capacity": d.capacity.lines(),
        "kv_capacity_given": d.pool.num_gpu_blocks_override is not None,
        "usd_per_hour": d.usd_per_hour,
        "busy_share": [e.busy / e.stages / run.duration if span else 0.0 for e in engines],
        "cost_model": d.cost.describe(),
        "time_shares": time_shares(engines),
        "energy": _energy(run, d, engines),
        **_speculation(engines),
        **_swaps(engines),
        **_sharing(d, engines),
    }


def _swaps(engines: Sequence[EngineInfo]) -> dict[str, Any]:
    """What moved between device and host, where requests were swapped out."""
    sums = {name: sum(e.swaps[name] for e in engines) for name in engines[0].swaps} if engines else {}
    return {"swaps": sums} if any(sums.values()) else {}


def _speculation(engines: Sequence[EngineInfo]) -> dict[str, Any]:
    """What drafting came to, where tokens were drafted."""
    drafted, accepted = sum(e.drafted for e in engines), sum(e.accepted for e in engines)
    share = {"drafted_tokens": drafted, "accepted_tokens": accepted, "accepted_share": accepted / max(1, drafted)}
    return {"speculation": share} if drafted else {}


def _sharing(d: Deployment, engines: Sequence[EngineInfo]) -> dict[str, Any]:
    """Who else is on the pool's accelerators, and how often its weights had to come."""
    if d.tenancy is None:
        return {}
    loads = sum(e.loads for e in engines)
    seconds = loads * d.tenancy.load_ticks / TICKS_PER_SECOND
    return {"shared_gpus": {"pools": list(d.tenancy.pools), "weight_loads": loads, "weight_load_seconds": seconds}}


def time_shares(engines: Sequence[EngineInfo]) -> dict[str, float] | None:
    """What share of the operators' time was measured, derived from measurements, or fell back to the roofline; None
    where nothing was measured."""
    ticks = {origin: sum(e.meters.get(origin, 0) for e in engines) for origin in ORIGINS}
    total = sum(ticks.values())
    return {origin: part / total for origin, part in ticks.items()} if total else None


def _energy(run: Run, d: Deployment, engines: Sequence[EngineInfo]) -> dict[str, Any] | None:
    """Joules of the pool's accelerators; None where their power is unknown. While kernels run it is as measured with
    them, or that assumed of a busy device at its clock; else what a waiting device draws."""
    ranks = d.pool.tensor_parallel_size  # an engine's ticks are summed over its pipeline stages
    busy = ranks * sum(e.busy for e in engines) / TICKS_PER_SECOND
    slowed = ranks * sum(e.meters.get("slowed", 0) for e in engines) / TICKS_PER_SECOND
    running, idle = busy_watts(d.hardware, 1 - slowed / busy if busy else 1.0), idle_watts(d.hardware)
    if running is None or idle is None:
        return None
    measured = "energy" in d.cost.meters and all("energy" in e.meters for e in engines)
    metered = ranks * sum(e.meters.get("energy", 0) for e in engines) / TICKS_PER_SECOND
    kernels = ranks * sum(e.meters.get(origin, 0) for e in engines for origin in ORIGINS) / TICKS_PER_SECOND
    active, worked = (metered, kernels) if measured else (busy * running, busy)
    there = d.pool.accelerators / (len(d.tenancy.pools) if d.tenancy else 1)
    waiting = max(0.0, there * run.duration / TICKS_PER_SECOND - worked) * idle
    return {"label": d.cost.label if measured else "assumed power", "active_joules": active, "idle_joules": waiting}
