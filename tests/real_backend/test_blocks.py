"""Placed blocks: a request reads from the cache what it, or somebody with the same prefix, has written there."""

from __future__ import annotations

import numpy as np
import pytest

from servecast.configs.plan import plan_from
from servecast.real_backend.blocks import placed
from servecast.sim.engine.oracle import ListEngine
from servecast.sim.run import run
from servecast.traces.columns import PrefixBlocks
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable


class Readers(ListEngine):
    """Writes the name of each token where a model would write its keys, and reads all that attention would read."""

    def __init__(self, *arguments, tokens, block_size, engines, **_):
        super().__init__(*arguments)
        self.pool = placed(self.pool)
        self.lookup, self.promise = self.pool.lookup, self.pool.promise
        self.tokens, self.size = tokens, block_size
        self.cache = {}
        self.read = 0
        engines.append(self)

    def compute(self, flight, ghosts):
        super().compute(flight, ghosts)
        rows = [*flight.parts, *((request, 1) for request in flight.decodes)]
        for request, count in rows:  # everybody writes before anybody reads, as in a layer
            for position in range(request.computed, request.computed + count):
                self.cache[self.slot(request, position)] = self.tokens(request.row, position)
        for request, count in rows:
            for position in range(request.computed + count):
                assert self.cache[self.slot(request, position)] == self.tokens(request.row, position)
                self.read += 1

    def slot(self, request, position):
        return self.pool.tables.table(request)[position // self.size], position % self.size


@pytest.mark.parametrize("eviction", ["lru", "tail_first"])
@pytest.mark.parametrize("block_size", [8, 16, 32])
@pytest.mark.parametrize("seed", range(2))
def test_nobody_reads_what_others_wrote(block_size, eviction, seed):
    stream = Stream(seed, "workload")
    requests, ids_of = 60, 16  # tokens of a prefix id
    prompts, answers = 16 + stream.integers(requests, 80), 1 + stream.integers(requests, 60)
    chains, alike = stream.integers(requests, 4), stream.integers(requests, 6)
    ids = [
        [1000 * int(chain) + i if i < same else 10_000 + 10 * row + i for i in range(n // ids_of)]
        for row, (chain, same, n) in enumerate(zip(chains, alike, prompts.tolist(), strict=True))
    ]
    arrival = np.cumsum(stream.exponential(requests)) / 2000.0
    table = RequestTable(arrival, prompts, answers, blocks=PrefixBlocks.of(ids_of, "floor", ids))

    def token(row, position):
        block, offset = divmod(position, ids_of)
        return (ids[row][block], offset) if block < len(ids[row]) else (-row, position)

    blocks = 18 * 16 // block_size
    pool = {"name": "p", "hardware": "h100", "max_model_len": 256, "num_gpu_blocks_override": blocks,
            "max_num_seqs": 8, "max_num_batched_tokens": 64, "block_size": block_size, "eviction": eviction,
            "async_scheduling": bool(seed % 2)}  # fmt: skip
    plan = plan_from({"model": "llama-3.1-8b", "engine": "vllm-0.19", "pools": [pool]})
    engines = []

    def engine(*arguments, **keywords):
        return Readers(*arguments, tokens=token, block_size=block_size, engines=engines, **keywords)

    found, plain = run(table, plan, engine=engine), run(table, plan)
    for column, values in plain.recorder.requests.columns().items():
        np.testing.assert_array_equal(values, found.recorder.requests.columns()[column], err_msg=column)
    (served,) = engines
    columns = found.recorder.requests.columns()
    assert columns["cached_tokens"].sum() > 0 and columns["preemptions"].sum() > 0 and served.read > 10_000
    served.pool.take(served.pool.total)  # at the end every block is free, and in one place
    assert sorted(served.pool.tables.handed) == list(range(served.pool.total))


def test_without_prefix_caching_blocks_are_nobody_elses():
    table = RequestTable(np.zeros(40), np.full(40, 50), np.full(40, 60))
    pool = {"name": "p", "hardware": "h100", "max_model_len": 256, "num_gpu_blocks_override": 30, "max_num_seqs": 8,
            "enable_prefix_caching": False, "max_num_batched_tokens": 64}  # fmt: skip
    plan = plan_from({"model": "llama-3.1-8b", "engine": "vllm-0.19", "pools": [pool]})
    engines = []

    def engine(*arguments, **keywords):
        return Readers(*arguments, tokens=lambda *at: at, block_size=16, engines=engines, **keywords)

    found = run(table, plan, engine=engine)
    assert found.recorder.requests.columns()["preemptions"].sum() > 0
    engines[0].pool.take(engines[0].pool.total)
    assert len(set(engines[0].pool.tables.handed)) == engines[0].pool.total
