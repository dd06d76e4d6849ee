"""Plans with services, killed at random points: what comes after the last checkpoint leaves the same bytes."""

from __future__ import annotations

from contextlib import suppress

import pytest

from servecast.sim import run as runs
from servecast.sim.checkpoint import Checkpoint
from servecast.sim.report.report import build_report
from servecast.sim.report.write import write_results
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable

PAIR = [{"role": "prefill", "replicas": 2}, {"role": "decode", "replicas": 2, "num_gpu_blocks_override": 90}]
THREE = [{"replicas": 3, "num_gpu_blocks_override": 90}]
HOST = {"name": "host", "capacity": 0.1, "write": "back"}
POOL = {"name": "pool", "capacity": 1.0, "bandwidth": 2e8, "shared": True}
STORE = {"name": "store", "capacity": 0.2, "shared": True, "distributed": True}
RATE = {"mean_time_between_failures": 6.0, "mean_time_to_repair": 1.0}
EVENTS = [
    {"at": 0.5, "kind": "slow", "replica": "pool0/1", "factor": 1.7, "duration": 4.0},
    {"at": 0.6, "kind": "link", "replica": "pool0/0", "factor": 0.1, "duration": 3.0},
    {"at": 2.0, "kind": "crash", "replica": "pool0/2", "duration": 2.0},
]
SCALING = {"pool": "pool0", "policy": {"name": "queue", "high": 1}, "max_replicas": 4, "period": 1.0, "start_up": 1.5}
KINDS = {
    "hand-off": (PAIR, {"disaggregation": {"mode": "layer_wise", "lease": 2.0}}),
    "hand-off to another fabric": (
        [{**pool, "fabric": fabric} for pool, fabric in zip(PAIR, ("east", "west"), strict=True)],
        {
            "links": {"fabrics": {"east->west": {"bandwidth": 1e9, "latency": 0.001}}},
            "disaggregation": {"mode": "layer_wise"},
        },
    ),
    "borrowed prompt machines": (
        PAIR, {"router": {"name": "splitwise", "prompt_pool": "pool0", "token_pool": "pool1"}},
    ),
    "predicted TTFT": (PAIR, {"router": "mooncake"}),
    "scaled": ([{"replicas": 2}], {"scaling": [SCALING], "admission": {"name": "max_waiting", "limit": 30}}),
    "faults": (THREE, {"faults": {"events": EVENTS, "in_flight": "retry"}, "clients": {"timeout": 3.0, "retries": 1}}),
    "random faults, hand-off": (PAIR, {"faults": {"rate": RATE}, "rebalancer": {"name": "llumnix", "threshold": 6}}),
    "llumnix": (THREE, {"router": "llumnix", "rebalancer": "llumnix"}),
    "lent blocks": (
        [{"replicas": 3, "enable_prefix_caching": False, "kv": {"name": "recompute", "reserve": "prompt"}}],
        {"kv_borrowing": {"grain": 16}},
    ),
    "tiers": ([{"replicas": 2, "num_gpu_blocks_override": 75}], {"tiers": {"levels": [HOST, POOL], "prefetch": 3}}),
    "tiers, hand-off, faults": (PAIR, {"tiers": {"levels": [HOST, POOL]}, "faults": {"rate": RATE}}),
    "copies and a store": (
        [{"role": "prefill", "replicas": 3, "num_gpu_blocks_override": 90}, {"role": "decode"}],
        {"router": "mooncake", "tiers": {"peers": True, "levels": [STORE]}, "faults": {"rate": RATE}},
    ),
    "pins": ([{"replicas": 2, "num_gpu_blocks_override": 80}], {"retention": {"name": "continuum", "enough": 5}}),
    "answers found": ([{}], {"semantic_cache": {"search": 0.05, "categories": {"": {"questions": 30}}}}),
    "adapters": (
        [{"enable_prefix_caching": False}], {"adapters": {"count": 4, "ranks": [8], "popularity": "power"}},
    ),
    "drafts": ([{"techniques": {"speculation": {"tokens": 3, "acceptance": 0.7}}}], {}),
    "two streams": ([{"streams": {}, "batch": "nexus"}], {}),
}  # fmt: skip


def work(kind, small, programs, seed) -> RequestTable:
    if kind == "pins":
        return programs(seed)
    return small.table(60, 10.0, output=60, seed=seed, shared=0 if kind in ("lent blocks", "adapters") else 4)


def files(result, folder):
    folder.mkdir(exist_ok=True)
    write_results(result, build_report(result), folder)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


class Killed(Exception):
    pass


def death():
    """Comes at the second look, and again at each one after it."""
    looks = iter([True])

    def look(*_):
        if not next(looks, False):
            raise Killed

    return look


@pytest.mark.parametrize("kind", KINDS)
def test_killed_again_and_again(small, programs, tmp_path, monkeypatch, kind):
    """Each life saves after some requests and dies as many later, in the middle of whatever is under way."""
    monkeypatch.setattr("os.fsync", lambda _: None)  # no power is cut here
    draw = Stream(0, f"lives, {kind}")
    seed = draw.below(10**6)
    pools, keys = KINDS[kind]
    plan, table = small.plan(pools, **keys), work(kind, small, programs, seed)
    whole = files(small.run(table, plan, seed=seed), tmp_path / "whole")
    state = Checkpoint(tmp_path / "state", {}, every=0.0)
    lives, result = 0, None
    while result is None:
        lives += 1
        monkeypatch.setattr(runs, "BETWEEN_LOOKS", 9 + draw.below(17))
        with suppress(Killed):
            result = small.run(table, plan, seed=seed, checkpoint=state, progress=death())
    assert lives > 1
    small.check(result)
    assert files(result, tmp_path / "parts") == whole
