"""The radix view of the prefix cache against brute force, and SGLang's order over it."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from servecast.sim.core import Request
from servecast.sim.kv.freelist import Run
from servecast.sim.kv.prefix import PrefixPool
from servecast.sim.kv.radix import RadixView
from servecast.sim.policies.dfs_weight import DfsWeight
from servecast.traces.columns import PrefixBlocks
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable

BLOCK = 16


def forest(s, rows, trace_block):
    """Prompts that branch off earlier ones at random places: their ids and lengths."""
    ids, lengths = [], []
    for i in range(rows):
        shared = ids[s.below(i)] if i else []
        shared = shared[: s.below(len(shared) + 1)]
        ids.append([*shared, *(1000 * i + j for j in range(1 + s.below(5)))])
        lengths.append(len(ids[-1]) * trace_block + s.below(trace_block))
    return ids, lengths


@settings(max_examples=60, deadline=None, derandomize=True)
@given(total=st.integers(20, 80), trace_block=st.sampled_from([16, 64]), seed=st.integers(0, 10**6))
def test_the_view_is_what_brute_force_finds(total, trace_block, seed):
    """Prompts come and go in a memory that holds few of them; after each step every query is asked of every prompt."""
    s = Stream(seed, "radix")
    ids, lengths = forest(s, 12, trace_block)
    pool = PrefixPool(total, BLOCK, PrefixBlocks.of(trace_block, "floor", ids))
    view = RadixView(pool)
    span = trace_block // BLOCK
    asked = [Request(row, row, 0, n) for row, n in enumerate(lengths)]
    chains = [[(key, j) for key in row for j in range(span)] for row in ids]
    here: dict[int, Request] = {}
    for _ in range(40):
        row = s.below(12)
        if row in here:
            pool.release(here.pop(row))
        else:
            request = Request(100 + row, row, 0, lengths[row])
            request.blocks = -(-lengths[row] // BLOCK)
            found, idle = pool.lookup(request, {})
            if request.blocks - found + idle <= pool.free:
                pool.admit(request)
                pool.cover(request, lengths[row])
                here[row] = request
        present = {(key, j) for key, run in pool._index.items() for j in range(run.cached)}
        passing = [{key for key, _ in chains[row]} for row in here]
        shared = view.sharing(asked)
        for row, request in enumerate(asked):
            deep = next((i for i, block in enumerate(chains[row]) if block not in present), len(chains[row]))
            assert view.match(request) == deep * BLOCK
            for node in view.path(request):
                assert node.holders == sum(node.key in keys for keys in passing)
                assert shared[node.key] == sum((node.key, 0) in chain for chain in chains)
            other = s.below(12)
            equal = next((i for i, (a, b) in enumerate(zip(ids[row], ids[other], strict=False)) if a != b), None)
            equal = min(len(ids[row]), len(ids[other])) if equal is None else equal
            assert view.common(request, asked[other]) == equal * trace_block


class Waiting:
    """A view with nothing but paths."""

    def __init__(self, paths):
        self._paths = paths

    def path(self, request):
        return [Run(key, 1, 1) for key in self._paths[request.index]]


def test_the_heaviest_subtree_goes_first_at_every_depth():
    """Two requests below node 2, three below node 5 (two of them deeper), one without a match."""
    paths = [[], [2], [5], [2, 3], [5, 7], [5, 7]]
    requests = [Request(i, i, i, 10) for i in range(6)]
    assert [r.index for r in DfsWeight().order(requests, Waiting(paths))] == [4, 5, 2, 3, 1, 0]


def test_dfs_weight_finds_more_and_is_the_oracles_too(lab):
    """Conversations take turns in a cache that holds few of them, as for the longest prefix."""
    ids = [[g * 100 + i for i in range(20)] for _ in range(12) for g in range(8)]
    n = len(ids)
    table = RequestTable(np.arange(n) / 500, np.full(n, 340), np.full(n, 4), blocks=PrefixBlocks.of(16, "floor", ids))

    def outcome(queue, engine="leap"):
        setup = lab.Setup(queue=queue, blocks=70, max_num_seqs=2, max_model_len=1024, caching="runs")
        return lab.simulate(setup, table, engine)

    ours = outcome("dfs_weight")
    assert ours.column("cached_tokens").sum() > 2 * outcome("fcfs").column("cached_tokens").sum()
    for engine in ("step", "oracle"):
        np.testing.assert_array_equal(ours.rows, outcome("dfs_weight", engine).rows)
