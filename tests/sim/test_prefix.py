"""The prefix cache: runs against single blocks, hits against counting by hand, and nothing leaks."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servecast.traces.streams import Stream
from servecast.traces.table import PrefixBlocks


def sharing(lab, n, rate, seed, block=16, rule="floor", heads=3, depth=12):
    """Prompts that start with one of a few common texts, some of them equal to the last token."""
    table = lab.workload(n, rate, 60, 30, seed)
    s = Stream(seed, "prefix")
    rows, prompts = [], []
    for i, own in enumerate(table.prompt_tokens.tolist()):
        head, common = s.below(heads), s.below(depth) * block // 2
        prompt = common + own if s.below(4) else max(1, common)
        count = prompt // block if rule == "floor" else -(-prompt // block)
        # A block is shared when all of it, and all before it, is common text.
        rows.append([head * 1000 + j if (j + 1) * block <= common else 10**6 * (i + 1) + j for j in range(count)])
        prompts.append(prompt)
    return dataclasses.replace(table, prompt_tokens=np.array(prompts), blocks=PrefixBlocks.of(block, rule, rows))


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    blocks=st.integers(40, 200),
    block_size=st.sampled_from([8, 16, 32]),
    trace_block=st.sampled_from([8, 16, 64]),
    rule=st.sampled_from(["floor", "ceil"]),
    rate=st.floats(5, 500),
    budget=st.sampled_from([32, 256]),
    replicas=st.integers(1, 2),
    seed=st.integers(0, 10**6),
)
def test_runs_are_single_blocks_and_leaps_are_steps(
    lab, blocks, block_size, trace_block, rule, rate, budget, replicas, seed
):
    table = sharing(lab, 40, rate, seed, trace_block, rule)
    setup = lab.Setup(
        blocks=blocks, block_size=block_size, max_model_len=blocks * block_size, replicas=replicas,
        max_num_batched_tokens=budget, caching="runs",
    )  # fmt: skip
    plain = dataclasses.replace(setup, caching="plain")
    leap = lab.simulate(setup, table, "leap")
    for other in (
        lab.simulate(setup, table, "step"),
        lab.simulate(setup, table, "oracle"),
        lab.simulate(plain, table, "oracle"),
    ):
        assert leap.iterations == other.iterations
        np.testing.assert_array_equal(leap.rows, other.rows)
    for engine in leap.engines:
        pool = engine.rank.pool
        assert pool.free == pool.total
        assert sum(run.cached for run in pool.free_runs()) == pool.total
        assert all(run.holders == 0 for run in pool.free_runs())
