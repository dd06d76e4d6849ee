"""Invariant 7: leaping = step by step = the list-walking oracle. Same compositions, same ticks, same rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

POLICIES = {
    "v1": {"batch": "vllm_v1"},
    "v1 watermark, whole prompt must fit": {
        "batch": "vllm_v1", "batch_parameters": {"watermark": 0.05}, "kv": "recompute",
        "kv_parameters": {"full_sequence_must_fit": True},
    },
    "v1 priority": {
        "batch": "vllm_v1", "queue": "priority", "kv": "recompute", "kv_parameters": {"victim_rule": "lowest_priority"},
    },
    "v1 ahead": {"batch": "vllm_v1", "ahead": True},
    "v1 ahead, threshold": {"batch": "vllm_v1", "ahead": True, "long_prefill_token_threshold": 48},
    "v1 sjf": {"batch": "vllm_v1", "queue": "sjf"},
    "v1 long prefill threshold": {"batch": "vllm_v1", "long_prefill_token_threshold": 48},
    "v1 hybrid model": {"batch": "vllm_v1", "fixed_blocks": 3},
    "v1 requests that stop growing": {"batch": "vllm_v1", "outgrown": 100},
    "v1 ahead, requests that stop growing": {"batch": "vllm_v1", "ahead": True, "outgrown": 120, "fixed_blocks": 2},
    "v1 unchunked": {"batch": "vllm_v1", "enable_chunked_prefill": False, "max_num_batched_tokens": 2048},
    "v1 starved budget": {"batch": "vllm_v1", "max_num_batched_tokens": 8, "max_num_seqs": 24},
    "v0": {"batch": "vllm_v0", "max_num_batched_tokens": 2048},
    "v0 swap": {
        "batch": "vllm_v0", "max_num_batched_tokens": 2048, "kv": "swap", "host_blocks": 60,
        "kv_parameters": {
            "reserve": "prompt", "watermark": 0.01, "every_decode_needs_a_free_block": True, "arrival_order": True,
        },
    },
    "v0 requests that stop growing": {"batch": "vllm_v0", "max_num_batched_tokens": 2048, "outgrown": 90},
    "v0 priority": {"batch": "vllm_v0", "queue": "priority", "max_num_batched_tokens": 2048},
    "sarathi": {"batch": "sarathi", "max_num_batched_tokens": 64},
    "sarathi chunks only": {
        "batch": "sarathi", "batch_parameters": {"batching": "chunked_prefills_only"}, "max_num_batched_tokens": 64,
    },
    "orca": {"batch": "orca", "max_model_len": 512},
    "static": {"batch": "static", "max_model_len": 512, "max_num_batched_tokens": 2048},
    "sglang": {"batch": "sglang", "max_model_len": 512, "max_num_batched_tokens": 192},
    "sglang mixed, whole prompts": {
        "batch": "sglang", "batch_parameters": {"mixed_chunk": True}, "enable_chunked_prefill": False,
        "max_model_len": 512, "max_num_batched_tokens": 512,
    },
    "sglang retracts": {
        "batch": "sglang", "kv": "sglang_retract", "kv_parameters": {"max_new_tokens": 1, "new_token_ratio": 0.0},
    },
    "v1 fair": {"batch": "vllm_v1", "queue": "vtc"},
    "v0 fair": {"batch": "vllm_v0", "queue": "vtc", "max_num_batched_tokens": 2048},
    "v1 ahead, fair": {"batch": "vllm_v1", "queue": "vtc", "ahead": True},
    "ltr": {"batch": "preemptive", "queue": "sjf", "batch_parameters": {"patience": 20, "boost": 4}},
    "fastswitch": {
        "batch": "preemptive", "queue": "drawn_priority", "queue_parameters": {"period": 7}, "kv": "swap",
        "host_blocks": 60,
    },
    "fastswitch, its copies": {
        "batch": "preemptive", "queue": "drawn_priority", "queue_parameters": {"period": 7}, "kv": "swap",
        "kv_parameters": {"group": 4, "keep": True, "overlap": True}, "host_blocks": 60, "ahead": True,
    },
    "v0 swap, kept copies": {
        "batch": "vllm_v0", "max_num_batched_tokens": 2048, "kv": "swap", "host_blocks": 40, "outgrown": 90,
        "kv_parameters": {"reserve": "prompt", "arrival_order": True, "keep": True},
    },
    "preemptive ahead": {"batch": "preemptive", "queue": "priority", "ahead": True},
    "nexus in one stream": {"batch": "nexus"},
    "niyama": {"batch": "niyama", "batch_parameters": {"ttft": [0.5, 2.0], "low_kv_tokens": 800}},
    "trtllm": {"batch": "trtllm", "max_model_len": 512, "enable_chunked_prefill": False, "max_num_batched_tokens": 512},
    "trtllm chunked": {"batch": "trtllm", "max_model_len": 512},
}  # fmt: skip


def same(lab, setup, table):
    leap = lab.simulate(setup, table, "leap")
    oracle = lab.simulate(setup, table, "oracle")
    outcomes = [leap, oracle]
    if setup.stages == 1:
        outcomes.append(lab.simulate(setup, table, "step"))
    for other in outcomes[1:]:
        assert leap.iterations == other.iterations
        np.testing.assert_array_equal(leap.rows, other.rows)
    gaps = leap.gaps
    assert gaps.count == len(oracle.gaps)
    if oracle.gaps:
        for percent in (0, 1, 37, 50, 90, 99, 100):
            assert gaps.percentiles([percent])[0] == pytest.approx(np.percentile(oracle.gaps, percent), rel=1e-12)
        mean, std = gaps.mean_and_std()
        assert mean == pytest.approx(np.mean(oracle.gaps), rel=1e-9)
        assert std == pytest.approx(np.std(oracle.gaps), rel=1e-6, abs=mean * 1e-6)
    for engine in leap.engines:
        assert engine.rank.pool.free == engine.rank.total_blocks
        assert engine.rank.host.free == setup.host_blocks
        assert not engine.rank.running and not len(engine.rank.waiting)
    e2e = leap.column("ended") - leap.column("arrival")
    parts = sum(
        leap.column(c) for c in ("queueing", "prefill", "decode", "interference", "preemption", "transfer", "host")
    )
    finished = leap.column("end") == 0
    np.testing.assert_array_equal(parts[finished], e2e[finished])
    assert np.all(leap.column("generated")[finished] == leap.column("output_tokens")[finished])
    return leap


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize(
    "variant", ["plain", "tight memory", "three replicas", "two stages", "impatient", "closed loop", "heaps"]
)
def test_leap_is_step_by_step_is_the_oracle(lab, name, variant):
    setup = lab.Setup(**POLICIES[name])
    rate, burst = 50.0, False
    if variant == "tight memory":
        setup.blocks = max(70, setup.max_model_len // 16 if setup.batch in ("orca", "static", "trtllm") else 0)
        rate = 90.0
    elif variant == "three replicas":
        setup.replicas, rate, setup.router = 3, 150.0, "most_free_kv"
    elif variant == "two stages":
        setup.stages = 1 if setup.ahead else 2
        setup.blocks = 90 if setup.batch not in ("orca", "static", "trtllm") else 200
    elif variant == "impatient":
        setup.timeout, setup.first_token_timeout, setup.retries, rate = 0.6, 0.3, 2, 120.0
        setup.blocks = 120
    elif variant == "closed loop":
        setup.users, setup.replicas = 9, 2
    elif variant == "heaps":
        burst, setup.replicas, rate = True, 2, 100.0
    room = (setup.blocks - setup.fixed_blocks) * setup.block_size
    setup.max_model_len = min(setup.max_model_len, room)  # as `deploy` sees to it
    table = lab.workload(120, rate, 120, 60, seed=len(name) + len(variant), burst=burst)
    leap = same(lab, setup, table)
    assert len(leap.rows) >= 120


def test_the_cases_above_do_preempt_swap_and_time_out(lab):
    tight = lab.Setup(blocks=70)
    assert lab.simulate(tight, lab.workload(120, 90.0, 120, 60, 1), "leap").column("preemptions").sum() > 10
    swap = lab.Setup(**POLICIES["v0 swap"])
    swap.blocks = 70
    outcome = lab.simulate(swap, lab.workload(120, 90.0, 120, 60, 1), "leap")
    assert outcome.column("preemptions").sum() > 10
    hasty = lab.Setup(timeout=0.6, first_token_timeout=0.3, retries=2, blocks=120)
    ends = lab.simulate(hasty, lab.workload(120, 120.0, 120, 60, 1), "leap").column("end")
    assert (ends == 2).sum() > 5 and (ends == 0).sum() > 5


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(POLICIES)),
    blocks=st.integers(40, 300),
    seqs=st.integers(1, 24),
    replicas=st.integers(1, 3),
    stages=st.integers(1, 3),
    block_size=st.sampled_from([1, 8, 16, 32]),
    rate=st.floats(1, 500),
    prompt=st.integers(1, 300),
    output=st.integers(1, 120),
    timeout=st.sampled_from([float("inf"), 0.2, 1.0]),
    burst=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_any_small_run(
    lab, name, blocks, seqs, replicas, stages, block_size, rate, prompt, output, timeout, burst, seed
):
    setup = lab.Setup(**POLICIES[name])
    setup.blocks, setup.replicas, setup.stages = blocks, replicas, 1 if setup.ahead else stages
    setup.block_size, setup.max_num_seqs, setup.timeout = block_size, seqs, timeout
    setup.max_model_len = min(setup.max_model_len, (blocks - setup.fixed_blocks) * block_size)  # as `deploy` sees to it
    same(lab, setup, lab.workload(40, rate, prompt, output, seed, burst))
