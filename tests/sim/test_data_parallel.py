"""Data-parallel ranks: independent where the model is dense, in lockstep where they share experts."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from servecast.configs.plan import plan_from
from servecast.sim.records import COMPONENTS, End
from servecast.sim.run import run
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable


def serve(table, model="qwen3-30b-a3b", ranks=2, step_by_step=False, clients=None, **pool):
    """Run a trace on one replica of so many ranks."""
    pool = {"name": "p", "hardware": "h100", "data_parallel_size": ranks, "max_model_len": 8192, **pool}
    plan = {"model": model, "engine": "vllm-0.19", "pools": [pool], "clients": clients or {}}
    return run(table, plan_from(plan), step_by_step=step_by_step)


def chat(n, rate, seed=0):
    s = Stream(seed, "chat")
    lengths = [np.maximum(1, s.exponential(n) * mean).astype(np.int64) for mean in (800, 150)]
    return RequestTable(np.cumsum(s.exponential(n)) / rate, *lengths)


def rows(result):
    c = result.recorder.requests.columns()
    order = np.argsort(c["index"])
    return {name: column[order] for name, column in c.items()}


def iterations(result):
    """Of each rank, {start of an iteration: its duration}, ticks."""
    ranks = []
    for table in result.recorder.leaps:
        c = table.columns()
        taken = {}
        for start, base, slope, k in zip(
            *(c[n].tolist() for n in ("start", "base", "slope", "iterations")), strict=True
        ):
            for j in range(k):
                taken[start] = base + j * slope
                start += base + j * slope
        ranks.append(taken)
    return ranks


def test_ranks_of_a_dense_model_do_not_wait_for_each_other():
    """Two requests at a time, far between: each has a rank for itself and the time of a request alone."""
    pairs = np.repeat(np.arange(20) * 10.0, 2)
    table = RequestTable(pairs, np.tile([3000, 100], 20), np.tile([5, 400], 20))
    together = rows(serve(table, "mistral-7b"))
    for which in (0, 1):
        only = table.take(np.arange(which, 40, 2))
        alone = rows(serve(only, "mistral-7b", ranks=1))
        for name in ("first_token", "last_token", *COMPONENTS):
            np.testing.assert_array_equal(together[name][which::2], alone[name])


def test_a_newcomer_goes_to_the_rank_with_the_least_to_do():
    """Of ten requests that arrive together, five each: their iterations show at most five at a time."""
    result = serve(RequestTable(np.zeros(10), np.full(10, 100), np.full(10, 50)), "mistral-7b")
    assert [t.columns()["decodes"].max() for t in result.recorder.leaps] == [5, 5]


@pytest.mark.parametrize(
    ("rate", "ranks", "more"),
    [
        (5.0, 2, {}),
        (60.0, 4, {"max_num_batched_tokens": 1024}),
        (60.0, 2, {"num_gpu_blocks_override": 520, "max_num_seqs": 64}),  # preempts
        (60.0, 3, {"clients": {"timeout": 1.5, "first_token_timeout": 0.2, "retries": 1}}),
    ],
    ids=["idle ranks", "busy ranks", "tight memory", "impatient clients"],
)
def test_7_ranks_in_lockstep_leap_as_they_step(rate, ranks, more):
    """The same iterations at the same ticks, and the same rows, whether the group leaps or takes every iteration."""
    leap, step = (serve(chat(120, rate), ranks=ranks, step_by_step=steps, **more) for steps in (False, True))
    assert leap.leaps < step.leaps
    assert iterations(leap) == iterations(step)
    a, b = rows(leap), rows(step)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
    assert all(leap.invariants.values()), leap.invariants
    assert ("num_gpu_blocks_override" in more) == bool(a["preemptions"].any())
    assert ("clients" in more) == bool((a["end"] == End.CANCELLED).any())


def test_every_iteration_of_one_rank_in_lockstep_is_one_of_all_that_have_work():
    """Experts are exchanged in every layer, so no rank can be ahead: all that run at a tick run equally long."""
    ranks = iterations(serve(chat(150, 60.0), ranks=4))
    common = {}
    for start, ticks in [item for rank in ranks for item in rank.items()]:
        assert common.setdefault(start, ticks) == ticks
    edges = sorted(common.items())
    assert all(start + ticks <= after for (start, ticks), (after, _) in pairwise(edges))
    assert sum(map(len, ranks)) > 1.5 * len(common)  # they do run side by side


def test_in_lockstep_a_long_prompt_slows_the_other_ranks_down():
    """Its neighbour's tokens wait for it, and the report calls that interference; a dense model's neighbour is free."""
    table = RequestTable(np.array([0.0, 0.5]), np.array([50, 8000]), np.array([400, 2]))
    for model, slowed in (("qwen3-30b-a3b", True), ("mistral-7b", False)):
        assert bool(rows(serve(table, model))["interference"][0]) is slowed
