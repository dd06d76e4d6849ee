"""Clocks of runs that take real time, under the simulator's own loop."""

from __future__ import annotations

from time import monotonic, thread_time

import numpy as np
import pytest

from servecast.configs.plan import plan_from
from servecast.costmodels.base import TICKS_PER_SECOND
from servecast.real_backend.clocks import CpuClock, WallClock
from servecast.sim.engine.oracle import ListEngine
from servecast.sim.events import Moment
from servecast.sim.run import run
from servecast.traces.table import RequestTable

MILLISECOND = TICKS_PER_SECOND // 1000


def test_the_wall_clock_waits_for_events():
    clock, seen = WallClock(), []
    for at in (40, 10, 25):
        Moment(clock, at * MILLISECOND, 1, lambda _, at=at: seen.append((at, clock.ticks())))
    began = monotonic()
    clock.run()
    assert monotonic() - began >= 0.040
    assert [at for at, _ in seen] == [10, 25, 40] and all(ticks >= at * MILLISECOND for at, ticks in seen)


def test_the_cpu_clock_jumps_over_idle_time_and_counts_work():
    clock, seen = CpuClock(), []

    def works(_):
        began = thread_time()
        while thread_time() - began < 0.01:
            pass
        seen.append(clock.ticks() - clock.now)

    for at in (1_000, 5_000_000):
        Moment(clock, at * MILLISECOND, 1, works)
    began = monotonic()
    clock.run()
    assert clock.now == 5_000_000 * MILLISECOND and monotonic() - began < 1000
    assert all(ticks >= 10 * MILLISECOND for ticks in seen)


@pytest.mark.parametrize("clock", [WallClock, CpuClock])
def test_what_comes_after_the_end_does_not_happen(clock):
    env, seen = clock(), []
    for at in (5, 20):
        Moment(env, at * MILLISECOND, 1, lambda _, at=at: seen.append(at))
    env.run(until=10 * MILLISECOND)
    assert seen == [5] and env.now == 10 * MILLISECOND


def test_a_run_on_the_wall_clock_lasts_as_long_as_its_trace():
    table = RequestTable(np.array([0.0, 0.1, 0.2]), np.full(3, 20), np.full(3, 3))
    plan = plan_from({"model": "llama-3.1-8b", "engine": "sarathi-serve", "pools": [{"name": "p", "hardware": "h100"}]})
    began = monotonic()
    found = run(table, plan, engine=lambda *words, recorder, number: ListEngine(*words), env=WallClock())
    assert monotonic() - began >= 0.2
    queued = found.recorder.requests.columns()
    assert (queued["queued"] >= queued["arrival"]).all() and len(queued["queued"]) == 3
