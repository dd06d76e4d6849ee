"""What the report says of hand-offs, migrations, links, scaling and faults, where a plan has any."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ...costmodels.base import TICKS_PER_SECOND
from ..cluster.replica import Replica
from ..run import Run
from ..services import Services
from .metrics import Finished, latency_statistics

SERVING = ("up", "draining")


def service_figures(run: Run, requests: Finished) -> dict[str, Any]:
    """The `cluster` block of a report."""
    services = run.services
    assert services is not None
    block: dict[str, Any] = {}
    handoff, migrator, faults = services.handoff, services.migrator, services.faults
    if handoff:
        block["transfers"] = {
            "completed": handoff.transfers, "aborted": handoff.aborted, "leases_expired": handoff.expired,
            "bytes": handoff.bytes_due,
        }  # fmt: skip
    if migrator:
        block["migrations"] = {
            "completed": migrator.done, "aborted": migrator.aborted, "bytes": migrator.bytes_due,
            "looks": services.rebalancing.looks,
            **latency_statistics("downtime", np.array(migrator.downtimes) / TICKS_PER_SECOND),
        }  # fmt: skip
    if services.loader:
        block["tiers"] = {
            "loads": services.loader.loads, "loaded_tokens": services.loader.loaded_tokens,
            "copies": services.loader.copies, "writes": services.loader.writes, "bytes": services.loader.bytes_due,
        }  # fmt: skip
        ahead = services.loader.prefetcher
        if ahead:
            block["tiers"] |= {"fetches": ahead.fetches, "fetched_tokens": ahead.fetched_tokens}
            block["tiers"]["bytes"] += ahead.bytes_due
    block["links"] = _links(services, run.duration)
    if services.scalers or faults:
        block["pools"] = {d.pool.name: _pool(run, d.pool.name) for d in run.deployments}
    if faults:
        block["crashes"], block["requests_hit"] = faults.crashes, faults.hit
        block["recovery"] = _recovery(run, services.replicas, requests)
    return block


def _links(services: Services, duration: int) -> dict[str, dict[str, float]]:
    """Of each link that carried anything: bytes, and the share of its capacity over the run."""
    return {
        link.name: {"bytes": link.carried, "use": link.carried * TICKS_PER_SECOND / (link.nominal * duration)}
        for link in services.network.links
        if link.carried
    }


def time_in(replica: Replica, states: Iterable[str], end: int) -> int:
    """Ticks until `end` that a replica spent in some states."""
    spans = _spans(replica, end)
    return sum(to - since for state, since, to in spans if state in states)


def _spans(replica: Replica, end: int) -> list[tuple[str, int, int]]:
    times = [(0, "up"), *replica.history]
    ends = [at for at, _ in times[1:]] + [end]
    return [(state, min(at, end), min(to, end)) for (at, state), to in zip(times, ends, strict=True)]


def _pool(run: Run, name: str) -> dict[str, Any]:
    """replica_hours : paid for, from the start of the start-up to the end of the drain. availability : the share of
    them in which requests were served."""
    assert run.services is not None
    mine = [r for r in run.services.replicas if r.pool == name]
    scaler = next((s for s in run.services.scalers if s.spec.pool == name), None)
    paid = sum(paid_ticks(r, run.duration) for r in mine)
    serving = sum(time_in(r, SERVING, run.duration) for r in mine)
    return {
        "replica_hours": paid / TICKS_PER_SECOND / 3600,
        "availability": serving / paid if paid else None,
        **({"scaled_up": scaler.ups, "scaled_down": scaler.downs} if scaler else {}),
    }


def paid_ticks(replica: Replica, end: int) -> int:
    """How long a replica costs money: always, unless scaling has turned it off."""
    return end - time_in(replica, ("off",), end)


def _recovery(run: Run, replicas: Sequence[Replica], requests: Finished) -> dict[str, Any]:
    """Latency of requests that arrived while some crashed replica was not back, and of all others."""
    arrival = requests.column("arrival")
    during = np.zeros(len(requests), bool)
    for replica in replicas:
        for state, since, to in _spans(replica, run.duration):
            if state in ("starting", "down"):
                during |= (arrival >= since) & (arrival < to)
    return {
        name: {
            "requests": int(mask.sum()),
            **latency_statistics("ttft", requests.ttft[mask]),
            **latency_statistics("e2el", requests.e2el[mask]),
        }
        for name, mask in (("during", during), ("otherwise", ~during))
    }
