"""Chunks reused wherever they stand: the same in every engine, tokens saved as the rules say, published shares."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

from servecast.errors import InputError
from servecast.sim.keep.reuse import Piece
from servecast.sim.policies.registry import make_policy
from servecast.traces.chunks import Chunks, chunk_blocks
from servecast.traces.load import load
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable

RAGPULSE = Path(os.environ.get("SERVECAST_DATA", "nowhere"), "traces", "ragpulse")
STUDY = Path(__file__).parents[2] / "bench" / "studies" / "ragpulse.py"


def passages(n=60, rate=20.0, seed=0):
    """Prompts of a head of 40 tokens, three of eight passages in any order, and a question of their own."""
    s = Stream(seed, "rag")
    rows = []
    for _ in range(n):
        found = {s.below(8): None for _ in range(3)}
        rows.append([(100, 40, 0), *((i, 60 + 10 * i, 1) for i in found)])
    chunks = Chunks.of(rows, ("head", "passage"))
    prompt = np.array([sum(tokens for _, tokens, _ in row) + 5 + s.below(30) for row in rows])
    arrival = np.cumsum(s.exponential(n)) / rate
    return RequestTable(arrival, prompt, 1 + s.integers(n, 30), chunks=chunks, blocks=chunk_blocks(chunks, prompt, 16))


@pytest.mark.parametrize(
    "reuse",
    ["cacheblend", {"name": "cacheblend", "bandwidth": 5e8, "capacity": 300}, "cache_craft",
     {"name": "kvshare", "bandwidth": 1e9}],
)  # fmt: skip
@pytest.mark.parametrize("keys", [{}, {"num_gpu_blocks_override": 70, "replicas": 2}])
def test_all_engines_agree_with_reuse(small, reuse, keys):
    small.run_all(small.plan([{"enable_prefix_caching": True, **keys}], reuse=reuse), passages())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "pools",
    [[{"replicas": 3}], [{"role": "prefill", "replicas": 2}, {"role": "decode", "num_gpu_blocks_override": 150}]],
)
def test_replicas_that_crash_while_chunks_are_loaded(small, pools, seed):
    rate = {"mean_time_between_failures": 3.0, "mean_time_to_repair": 0.5}
    plan = small.plan(pools, reuse={"name": "cacheblend", "bandwidth": 2e8}, faults={"rate": rate})
    result = small.run_all(plan, passages(seed=seed, rate=8.0), seed=seed)
    assert result.services.faults.hit > 0
    finished = result.recorder.requests.columns()["end"] == 0
    assert finished.sum() == 60


def test_clients_that_hang_up_while_chunks_are_loaded(small):
    plan = small.plan([{}], reuse={"name": "cacheblend", "bandwidth": 2e8}, clients={"timeout": 0.4})
    assert small.run_all(plan, passages()).timeouts > 0


def test_reused_tokens_are_not_computed_but_take_memory(small):
    def saved(**keys):
        result = small.run(passages(rate=0.1), small.plan([{}], **keys))
        assert all(result.invariants.values())
        return result.recorder.requests.columns()["cached_tokens"].sum()

    nothing, some, most = saved(), saved(reuse="cacheblend"), saved(reuse={"name": "cacheblend", "recompute": 0})
    assert nothing < some < most
    assert saved(reuse={"name": "cacheblend", "recompute": 1}) == nothing


def test_what_the_policies_reuse():
    blend = make_policy("reuse", "cacheblend", {"recompute": 0.25, "capacity": 250})
    piece = Piece(7, 100, (), 20)
    assert blend.reused(piece) == 0
    blend.observe(piece)
    assert blend.reused(piece) == pytest.approx(60)  # three quarters of what the prefix cache has not
    blend.observe(Piece(8, 200, (), 0))
    assert blend.reused(piece) == 0  # driven out
    craft = make_policy("reuse", "cache_craft", {"recompute": 0.4, "variants": 1})
    craft.observe(Piece(7, 100, (1, 2), 0))
    reused = [craft.reused(Piece(7, 100, before, 0)) for before in ((1, 2), (2, 3), (5,))]
    assert reused == pytest.approx([100, 80, 60])
    craft.observe(Piece(7, 100, (5,), 0))  # only one variant is kept
    assert craft.reused(Piece(7, 100, (1, 2), 0)) == pytest.approx(60)


def test_kvshare_hits_as_often_as_it_says():
    """10,000 chunks, probability 0.3: within five standard deviations."""
    share = make_policy("reuse", "kvshare", {"hit": 0.3})
    share.begin(Stream(1, "reuse"))
    hits = sum(share.reused(Piece(i, 100, (), 0)) > 0 for i in range(10_000))
    assert hits == pytest.approx(3000, abs=230)


def test_blocks_of_chunks_are_equal_where_everything_before_is():
    rows = [[(1, 20, 0), (2, 30, 1)], [(1, 20, 0), (2, 30, 1)], [(2, 30, 1), (1, 20, 0)], [(1, 20, 0), (3, 30, 1)]]
    ids = chunk_blocks(Chunks.of(rows, ("a", "b")), np.array([70, 65, 60, 60]), 10)
    a, b, c, d = (ids.row(i).tolist() for i in range(4))
    assert a[:5] == b[:5] and a[5] != b[5]  # each prompt's own tokens come last
    assert not set(c) & set(a) and d[:2] == a[:2] and not set(d[2:]) & set(a)


@pytest.mark.parametrize(
    ("reuse", "keys", "parts"),
    [
        ({"name": "cacheblend", "recompute": 2}, {}, ["reuse.recompute", "a share from 0 to 1"]),
        ({"name": "cacheblend", "bandwidth": 0}, {}, ["reuse.bandwidth", "above 0"]),
        ("cacheblendd", {}, ["reuse", "did you mean 'cacheblend'?"]),
        ("cacheblend", {"tiers": {"levels": [{"name": "host", "capacity": 1}]}}, ["reuse", "given with tiers"]),
    ],
)
def test_bad_reuse(small, reuse, keys, parts):
    with pytest.raises(InputError) as caught:
        small.run(passages(), small.plan([{}], reuse=reuse, **keys))
    for part in parts:
        assert part in str(caught.value)
    with pytest.raises(InputError, match="reuse: given, and memory does not say what its prompts are made of"):
        small.run(small.table(5, 1.0), small.plan([{}], reuse="cacheblend"))


def test_a_ragpulse_file_without_its_lengths(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text('{"timestamp": "1", "input_length": 9, "output_length": 2, "hash_ids": {}, "session_id": "s"}\n')
    with pytest.raises(InputError, match="no 1_sys_prompt"):
        load(path)


@pytest.mark.skipif(not RAGPULSE.is_dir(), reason="SERVECAST_DATA has no traces/ragpulse folder")
def test_ragpulse():
    """Passages repeat 90.3 %; 28.7 % in an equal prefix of passages, 0.04 % behind the system prompt (counted by
    others); reuse turns that into TTFT, a prefix cache alone into less."""
    spec = importlib.util.spec_from_file_location("ragpulse_study", STUDY)
    study = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(study)
    table = study.read(RAGPULSE, 10_000)
    assert len(table) == 7106
    assert study.passages(table) == pytest.approx((0.903, 0.287), abs=0.001)
    assert study.passages(table, True)[1] == pytest.approx(0.0004, abs=0.0002)
    busy = study.scale_rate(table.take(slice(0, 600)), 60)
    full, prefix, blend = (study.ttft(busy, **study.SYSTEMS[s]) for s in ("no reuse", "prefix cache", "CacheBlend"))
    assert full[0] > prefix[0] > blend[0]
    assert full[1] == 0 < prefix[1] < blend[1]
