"""Every plan of a technique runs, with the technique and without it, and the technique makes a difference."""

from __future__ import annotations

from pathlib import Path

import pytest

import servecast
from servecast.configs.plan import plan_from
from servecast.configs.strict import read_mapping

FOLDER = Path(servecast.__file__).parent / "configs" / "plans" / "techniques"
KEYS = ("techniques", "quantization", "kv_cache_dtype", "gpu_clock_mhz")  # of a pool: what a technique consists of
ELSEWHERE = {
    "cloudmatrix384",  # in test_place_plans: ranks in lockstep, which the oracle does not walk
    "clock-per-phase",  # in tests/sim/test_gpu_clock.py: it changes power, and times only where arithmetic bounds them
}
PLANS = [
    path
    for path in sorted(FOLDER.glob("*.yaml"))
    if path.stem not in ELSEWHERE and any(key in path.read_text() for key in KEYS)
]


def test_there_are_plans() -> None:
    assert len(PLANS) >= 4


@pytest.mark.parametrize("path", PLANS, ids=[path.stem for path in PLANS])
def test_with_and_without(path: Path, bench) -> None:
    data = read_mapping(path)
    bare = {**data, "pools": [{k: v for k, v in pool.items() if k not in KEYS} for pool in data["pools"]]}
    assert bare != data
    plans = [plan_from(values, path.stem, path.parent) for values in (data, bare)]
    if path.stem == "bitstack":  # without it the model leaves no room for this context: that is what it is for
        plans.pop()
    runs = [bench.run(bench.workload(shared=800), plan) for plan in plans]
    for done in runs:
        assert all(done.invariants.values()) and len(done.recorder.requests) == 60
    assert len({done.duration for done in runs}) == len(runs)


@pytest.mark.parametrize("path", PLANS, ids=[path.stem for path in PLANS])
def test_leap_is_step_by_step_is_the_oracle(path: Path, bench) -> None:
    plan = plan_from(read_mapping(path), path.stem, path.parent)
    bench.same(plan, bench.workload(n=25, shared=800))
