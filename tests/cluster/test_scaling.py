"""Scaling: replicas come after their start-up, go when they are empty, and cost what they were on for."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from servecast.costmodels.base import TICKS_PER_SECOND, ticks
from servecast.errors import InputError
from servecast.sim.cluster.dynamics import start_up_ticks
from servecast.sim.deploy import deploy
from servecast.sim.records import End
from servecast.sim.report.report import build_report
from servecast.traces.table import RequestTable

POLICIES = {
    "queue": {"name": "queue", "high": 1.0, "low": 0.2},
    "kv": {"name": "kv", "target": 0.5},
    "slo": {"name": "slo", "ttft": 0.5, "relaxed": 0.5},
    "llumnix": {"name": "llumnix", "low": 8, "high": 20},
    "schedule": {"name": "schedule", "steps": [[2, 4], [8, 1]]},
}


def plan_of(small, name, **keys):
    scaling = {"pool": "pool0", "policy": POLICIES[name], "max_replicas": 4, "period": 1.0, "start_up": 1.5}
    router = {"router": "llumnix", "rebalancer": "llumnix"} if name == "llumnix" else {}
    return small.plan([{"replicas": 1}], scaling=[{**scaling, **keys}], **router)


def rush(small):
    """A quiet start, a rush, and a long quiet end, so that replicas come and go."""
    busy, quiet = small.table(150, 14.0, output=70, seed=2), small.table(40, 1.0, output=70, seed=3)
    arrival = np.concatenate([busy.arrival + 3, quiet.arrival + busy.arrival[-1] + 4])
    parts = [
        np.concatenate([getattr(busy, n), getattr(quiet, n)]) for n in ("prompt_tokens", "output_tokens", "priority")
    ]
    return RequestTable(arrival, *parts[:2], priority=parts[2])


@pytest.mark.parametrize("name", POLICIES)
def test_every_autoscaler_in_every_engine(small, name):
    result = small.run_all(plan_of(small, name), rush(small))
    scaler = result.services.scalers[0]
    assert scaler.ups >= 2 and scaler.downs >= 2
    assert np.all(result.recorder.requests.columns()["end"] == End.FINISHED)


def test_a_schedule_is_kept_to_the_tick(small):
    result = small.run(rush(small), plan_of(small, "schedule", start_up=1.5))
    histories = [replica.history for replica in result.services.replicas]
    first = float(rush(small).arrival[0])
    looks = [first + 1.0 * k for k in range(1, 20)]
    start = next(t for t in looks if t >= 2)
    assert abs(histories[1][1][0] - ticks(start)) <= 20 and histories[1][1][1] == "starting"
    assert histories[1][2] == (histories[1][1][0] + ticks(1.5), "up")
    assert [state for _, state in histories[3]] == ["off", "starting", "up", "draining", "off"]


def test_nobody_is_sent_to_a_replica_that_starts_or_drains(small):
    result = small.run(rush(small), plan_of(small, "schedule"))
    c = result.recorder.requests.columns()
    for replica in result.services.replicas:
        spans = [*replica.history, (1 << 62, "end")]
        for (since, state), (to, _) in pairwise(spans):
            here = (c["replica"] == replica.id) & (c["arrival"] >= since) & (c["arrival"] < to)
            assert state == "up" or not here.any(), (replica, state)


def test_cost_counts_the_hours_that_replicas_were_on(small):
    result = small.run(rush(small), plan_of(small, "schedule"))
    report = build_report(result)
    hours = report["simulation"]["cluster"]["pools"]["pool0"]["replica_hours"]
    span = result.duration / TICKS_PER_SECOND / 3600
    assert span < hours < 4 * span
    assert report["usd_per_hour"] == pytest.approx(0.75 * hours / span, rel=1e-9)
    assert 0.5 < report["simulation"]["cluster"]["pools"]["pool0"]["availability"] < 1


def test_migration_empties_a_draining_replica_sooner(small):
    """Llumnix: a terminating instance has freeness -inf, so its requests move away."""
    table = small.table(60, 8.0, prompt=60, output=250, seed=4)
    pool = {"replicas": 2, "num_gpu_blocks_override": 600}
    scaling = [{
        "pool": "pool0", "policy": {"name": "schedule", "steps": [[3, 1]]}, "max_replicas": 2, "period": 0.5,
    }]  # fmt: skip

    def gone(**keys):
        result = small.run(table, small.plan([pool], scaling=scaling, **keys))
        small.check(result)
        history = {state: at for at, state in result.services.replicas[1].history}
        return history["off"] - history["draining"]

    assert gone(router="llumnix", rebalancer="llumnix") < 0.7 * gone(router="llumnix")


def test_start_up_is_weights_over_bandwidth(small):
    """Llama-7B in fp16 is 13.5 GB; at 1 GB/s an accelerator has it in 13.5 s."""
    scaling = [{"pool": "pool0", "policy": "queue", "max_replicas": 2, "load_bandwidth": 1e9}]
    plan = small.plan([{}], scaling=scaling)
    assert start_up_ticks(plan, deploy(plan)[0]) / TICKS_PER_SECOND == pytest.approx(13.5, rel=0.02)


@pytest.mark.parametrize(
    ("keys", "place", "words"),
    [
        ({"pool": "pool9"}, "scaling[0].pool", "pool0"),
        ({"min_replicas": 3, "max_replicas": 2}, "scaling[0].max_replicas", "below"),
        ({"min_replicas": 2}, "scaling[0].min_replicas", "starts with 1"),
        ({"period": 0}, "scaling[0].period", "1e-3"),
        ({"policy": "quue"}, "scaling[0].policy", "queue"),
        ({"policy": {"name": "schedule", "steps": [[5, 2], [1, 1]]}}, "scaling[0].policy.steps", "order"),
    ],
)
def test_bounds_that_contradict_are_refused(small, keys, place, words):
    with pytest.raises(InputError) as error:
        deploy(plan_of(small, "queue", **keys))
    assert error.value.where == place and words in str(error.value)
