"""The prefix cache: runs against single blocks, hits against counting by hand, and nothing leaks."""

from __future__ import annotations

import dataclasses
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servecast.sim.core import Request
from servecast.sim.kv.prefix import PrefixPool
from servecast.sim.policies.registry import make_policy
from servecast.traces.columns import Labels, PrefixBlocks
from servecast.traces.contexts import context_blocks
from servecast.traces.load import load
from servecast.traces.programs import ParentRows, Programs
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable


@pytest.fixture
def mooncake():
    """A Mooncake trace by name."""

    def read(name):
        folder = os.environ.get("SERVECAST_DATA")
        path = Path(folder or "", "traces/mooncake", f"{name}_trace.jsonl.gz")
        if not folder or not path.exists():
            pytest.skip("SERVECAST_DATA does not hold the Mooncake traces")
        return load(path)

    return read


def growing(lab, n, rate, seed, block=16):
    """Programs of a few turns: each prompt is the context so far and some new text."""
    s = Stream(seed, "turns")
    rows = []  # program, start, prompt, output, parent
    for i in range(n):
        if rows and s.below(4):
            program, start, prompt, output, _ = rows[-1]
            rows.append([program, start + 0.01, prompt + output + s.below(40), 1 + s.below(50), [i - 1]])
        else:
            rows.append([i, s.next() * n / rate, 1 + s.below(150), 1 + s.below(50), []])
    programs, start, prompt, output, parents = zip(*rows, strict=True)
    prompt, output = np.array(prompt), np.array(output)
    tree = Programs(ParentRows.of(parents), np.full(n, 0.02), Labels.of(["tool"] * n), np.full(n, np.inf))
    order = np.argsort(start, kind="stable")
    return RequestTable(
        np.array(start)[order], prompt[order], output[order],
        session=Labels.of(list(map(str, programs))).take(order), programs=tree.take(order),
        blocks=context_blocks(programs, prompt, output, block).take(order),
    )  # fmt: skip


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    blocks=st.integers(60, 300),
    block_size=st.sampled_from([8, 16, 32]),
    trace_block=st.sampled_from([8, 16, 64]),
    rate=st.floats(5, 500),
    eviction=st.sampled_from(["lru", "lfu", "cost_aware", "tail_first"]),
    replicas=st.integers(1, 2),
    seed=st.integers(0, 10**6),
)
def test_what_a_turn_wrote_is_found_by_the_next_in_every_engine(
    lab, blocks, block_size, trace_block, rate, eviction, replicas, seed
):
    table = growing(lab, 40, rate, seed, trace_block)
    setup = lab.Setup(
        blocks=blocks, block_size=block_size, max_model_len=blocks * block_size, replicas=replicas, caching="runs",
        eviction=eviction,
    )  # fmt: skip
    leap = lab.simulate(setup, table, "leap")
    others = [lab.simulate(setup, table, "step"), lab.simulate(setup, table, "oracle")]
    if eviction == "lru":
        others.append(lab.simulate(dataclasses.replace(setup, caching="plain"), table, "oracle"))
    for other in others:
        assert leap.iterations == other.iterations
        np.testing.assert_array_equal(leap.rows, other.rows)
    for engine in leap.engines:
        pool = engine.rank.pool
        assert pool.free == pool.total == sum(run.cached for run in pool.free_runs())


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
    fixed=st.sampled_from([0, 3]),
    seed=st.integers(0, 10**6),
)
def test_runs_are_single_blocks_and_leaps_are_steps(
    lab, blocks, block_size, trace_block, rule, rate, budget, replicas, fixed, seed
):
    table = sharing(lab, 40, rate, seed, trace_block, rule)
    setup = lab.Setup(
        blocks=blocks, block_size=block_size, max_model_len=(blocks - fixed) * block_size, replicas=replicas,
        max_num_batched_tokens=budget, caching="runs", fixed_blocks=fixed,
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


def count_by_hand(table, block_size):
    """Prompt tokens that each request finds if nobody ever runs at the same time and nothing is ever evicted."""
    seen, found = set(), []
    blocks = table.blocks
    for row, prompt in enumerate(table.prompt_tokens.tolist()):
        chain = blocks.row(row).tolist()[: prompt // blocks.size]  # what is not full cannot be found
        hits = next((i for i, key in enumerate(chain) if key not in seen), len(chain))
        seen.update(chain)
        found.append(min(hits * blocks.size, (prompt - 1) // block_size * block_size))  # the last token is computed
    return found


@pytest.mark.parametrize(("block_size", "rule"), [(16, "floor"), (8, "floor"), (8, "ceil"), (16, "ceil")])
def test_hits_are_what_one_counts_by_hand(lab, block_size, rule):
    """Requests far apart in a memory that holds them all find every full block that somebody had before."""
    table = sharing(lab, 150, 1.0, 3, 16, rule)
    table = dataclasses.replace(table, arrival=np.arange(150) * 100.0)
    setup = lab.Setup(blocks=10**5, block_size=block_size, caching="runs")
    outcome = lab.simulate(setup, table, "leap")
    assert outcome.column("cached_tokens").tolist() == count_by_hand(table, block_size)
    assert outcome.column("cached_tokens").sum() > 0.2 * table.prompt_tokens.sum()


@pytest.mark.parametrize(("trace", "share"), [("conversation", 0.382), ("synthetic", 0.659)])
def test_mooncake_hits_with_an_unlimited_cache(lab, mooncake, trace, share):
    """Published for these traces: the share of full blocks that repeat. A prompt that is cached completely computes its
    last block again, which costs at most one block a request."""
    table = mooncake(trace)
    table = dataclasses.replace(table, arrival=np.arange(len(table)) * 1e4, output_tokens=np.ones(len(table), np.int64))
    setup = lab.Setup(blocks=10**7, block_size=512, max_model_len=10**6, max_num_batched_tokens=10**6, caching="runs")
    cached = lab.simulate(setup, table, "leap", cost=lab.EvenCost(1000)).column("cached_tokens")
    assert cached.tolist() == count_by_hand(table, 512)
    full = (table.prompt_tokens // 512).sum()
    again = ((table.prompt_tokens % 512 == 0) & (cached == table.prompt_tokens - 512)).sum()
    assert (cached.sum() // 512 + again) / full == pytest.approx(share, abs=0.0006)


def hit_share(table, tokens, eviction="lru", block=512):
    """Share of a trace's full blocks that a cache of so many tokens finds, the requests coming one by one."""
    policy = make_policy("eviction", eviction, {})
    worth = None if policy.by_age else lambda hits, n, floor: policy.worth(hits, n, floor, lambda n: n * (1 + n / 1e5))
    pool = PrefixPool(tokens // block, block, table.blocks, worth)
    found = 0
    for row, prompt in enumerate(table.prompt_tokens.tolist()):
        request = Request(row, row, 0, prompt)
        request.blocks = -(-prompt // block)
        found += pool.lookup(request, {})[0]
        pool.admit(request)
        pool.cover(request, prompt)
        pool.release(request)
    return found / (table.prompt_tokens // block).sum()


@pytest.mark.parametrize(("trace", "most", "small"), [("conversation", 0.382, 0.37), ("synthetic", 0.659, 0.48)])
def test_mooncake_hits_by_size_of_the_cache(mooncake, trace, most, small):
    """With LRU 3 M tokens reach about 37 % and 48 % of the most there is, 50 M about all (FAST'25); within a point."""
    table = mooncake(trace)
    assert hit_share(table, 3_000_000) / most == pytest.approx(small, abs=0.01)
    assert hit_share(table, 50_000_000) / most > 0.985


def test_eviction_policies_keep_what_they_say():
    """One head that ten requests share, then ten long prompts of strangers, in a cache for four of them."""
    rows = [[0, 1, 10 + i] for i in range(10)] + [[100 * i + j for j in range(8)] for i in range(1, 11)] + [[0, 1, 99]]
    prompts = np.array([16 * len(row) for row in rows])
    table = RequestTable(np.arange(21.0), prompts, np.ones(21, np.int64), blocks=PrefixBlocks.of(16, "floor", rows))

    def found(eviction):
        return round(hit_share(table, 32 * 16, eviction, 16) * prompts.sum() / 16)

    assert found("lru") == 18  # nine times the head of two blocks; then the strangers drove it out
    assert found("lfu") == found("tail_first") == 20
    assert found("cost_aware") == 20


def test_a_hundred_thousand_cached_blocks_fit_into_30_mb():
    """In the worst case: each block has an id of its own."""
    n = 1_000
    ids = np.arange(100 * n, dtype=np.int64)
    blocks = PrefixBlocks(16, "floor", np.arange(0, 100 * n + 1, 100, dtype=np.int64), ids)
    pool = PrefixPool(100 * n, 16, blocks)
    tracemalloc.start()
    for row in range(n):
        request = Request(row, row, 0, 1600)
        request.blocks = 100
        pool.admit(request)
        pool.cover(request, 1600)
        pool.release(request)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(run.cached for run in pool.free_runs()) == pool.free == 100 * n
    assert peak < 30e6
