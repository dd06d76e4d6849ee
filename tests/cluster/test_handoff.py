"""Prefill here, decode there: exact in all engines, conserved, and limited by memory and links as it should be."""

from __future__ import annotations

import numpy as np
import pytest

from servecast.costmodels.base import TICKS_PER_SECOND
from servecast.errors import InputError
from servecast.sim.deploy import deploy
from servecast.sim.records import End
from servecast.traces.table import RequestTable

PAIRS = {"name": "splitwise", "prompt_pool": "pool0", "token_pool": "pool1"}
ROLES = [{"role": "prefill", "replicas": 2}, {"role": "decode", "replicas": 1}]
VARIANTS = {
    "pull": {},
    "push": {"disaggregation": {"direction": "push", "choose": "arrival"}},
    "layer-wise": {"disaggregation": {"mode": "layer_wise", "direction": "push"}},
    "chunk-wise": {"disaggregation": {"mode": "chunk_wise"}},
    "lease": {"disaggregation": {"lease": 0.1}},
    "lease fails": {"disaggregation": {"lease": 0.1, "expired": "fail"}},
    "local": {"disaggregation": {"local_prefill_tokens": 60}},
    "slow shared network": {
        "links": {"network": {"bandwidth": 50e6}}, "topology": {"nic": "node", "placement": "by_pool"},
    },
    "impatient": {"clients": {"timeout": 3.0, "first_token_timeout": 1.0, "retries": 1}},
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("engine", ["vllm-0.19", "vllm-0.6"])
@pytest.mark.parametrize("burst", [False, True])
def test_leap_is_step_by_step_is_the_oracle(small, name, engine, burst):
    plan = small.plan(ROLES, **{**VARIANTS[name], "engine": engine})
    result = small.run_all(plan, small.table(80, 10.0, burst=burst, seed=len(name)))
    handoff = result.services.handoff
    assert handoff.transfers >= 40
    if name.startswith("lease"):
        assert handoff.expired
    if name == "impatient":
        assert (result.recorder.requests.columns()["end"] == 2).any()


@pytest.mark.parametrize("burst", [False, True])
def test_so_it_is_with_prefix_caching_and_pipeline_stages(small, burst):
    table = small.table(80, 8.0, shared=5, burst=burst)
    small.run_all(small.plan(ROLES, disaggregation={"choose": "arrival", "local_prefill_tokens": 32}), table)
    staged = [{**pool, "pipeline_parallel_size": 2} for pool in ROLES]
    small.run_all(small.plan(staged), table)


@pytest.mark.parametrize("keys", [{}, {"rebalancer": {"name": "llumnix", "threshold": 8}}])
def test_so_it_is_in_a_closed_loop_and_when_the_run_is_cut_off(small, keys):
    pools = [ROLES[0], {"role": "decode", "replicas": 2, "num_gpu_blocks_override": 90}]
    plan = small.plan(pools, clients={"closed_loop": {"users": 12, "think_time": 0.1}}, **keys)
    table = small.table(90, 5.0, output=60)
    small.run_all(plan, table)
    cut = small.run(table, plan, horizon=4.0)
    assert all(cut.invariants.values()) and (cut.recorder.requests.columns()["end"] == End.UNFINISHED).any()


def test_every_byte_of_a_prompt_crosses_the_links(small):
    """Llama-7B in fp16: 2 x 32 layers x 4,096 x 2 bytes a token. With one prefill replica nothing goes by twice."""
    plan = small.plan([{"role": "prefill"}, {"role": "decode"}], topology={"placement": "by_pool"})
    table = small.table(30, 3.0)
    result = small.run(table, plan)
    small.check(result)
    moved = table.prompt_tokens[table.output_tokens > 1].sum()  # who has its only token needs no decode replica
    assert result.services.network.bytes_sent == moved * 2 * 32 * 4096 * 2
    carried = {link.name: link.carried for link in result.services.network.links if link.carried}
    assert set(carried) == {"pool0/0 network out", "pool1/0 network in"}


def test_a_lone_request_waits_for_latency_and_bytes(small):
    """Its transfer: a message, the pull's latency, bytes / bandwidth, latency again; engines are idle."""
    links = {"network": {"bandwidth": 1e9, "latency": 0.01}}
    plan = small.plan([{"role": "prefill"}, {"role": "decode"}], topology={"placement": "by_pool"}, links=links)
    table = small.table(1, 1.0, prompt=500, output=50, seed=3)
    c = small.run(table, plan).recorder.requests.columns()
    share = deploy(plan)[0].hardware.achieved.link
    size = int(table.prompt_tokens[0]) * 2 * 32 * 4096 * 2
    assert c["transfer"][0] / TICKS_PER_SECOND == pytest.approx(0.02 + size / (1e9 * share), rel=1e-6)


def test_modes_hide_what_they_can_behind_the_computation(small):
    """A lone request, 10 GB/s: the transfer is much shorter than the prefill, so all but the last of 32 layers, or
    all but the last chunk, is through when the prompt is done. A slow link hides less."""
    prompt = 500
    table = RequestTable(np.zeros(1), np.array([prompt]), np.array([20]))
    share = deploy(small.plan([{}]))[0].hardware.achieved.link

    def transfer(bandwidth, **spec):
        plan = small.plan(
            [{"role": "prefill", "max_num_batched_tokens": 128}, {"role": "decode"}],
            links={"network": {"bandwidth": bandwidth, "latency": 0}}, topology={"placement": "by_pool"},
            disaggregation=spec,
        )  # fmt: skip
        result = small.run(table, plan)
        small.check(result)
        return result.recorder.requests.columns()["transfer"][0] / TICKS_PER_SECOND

    whole = prompt * 2 * 32 * 4096 * 2 / (1e10 * share)
    assert transfer(1e10, mode="serial") == pytest.approx(whole, rel=1e-3)
    assert transfer(1e10, mode="layer_wise") == pytest.approx(whole / 32, rel=1e-3)
    assert transfer(1e10, mode="chunk_wise") == pytest.approx(whole * ((prompt - 1) % 128 + 1) / prompt, rel=1e-3)
    slow = transfer(2e8, mode="serial")
    assert slow == pytest.approx(50 * whole, rel=1e-3)
    assert 0.5 * slow < transfer(2e8, mode="layer_wise") < slow


def test_a_full_decode_replica_fills_the_prefill_replica(small):
    """Back-pressure: with little room at the decode side, prompts wait with their blocks where they were computed, so
    prefill stops and requests queue; with enough, they do not."""

    def queueing(blocks):
        pools = [{"role": "prefill"}, {"role": "decode", "num_gpu_blocks_override": blocks}]
        result = small.run(small.table(120, 4.0, output=120), small.plan(pools))
        small.check(result)
        c = result.recorder.requests.columns()
        used = max(int(t.columns()["used_blocks"].max()) for t in result.recorder.leaps[:1])
        return c["queueing"].mean(), c["transfer"].mean(), used

    tight, roomy = queueing(70), queueing(2000)
    assert tight[0] > 3 * roomy[0] and tight[1] > 3 * roomy[1]
    assert tight[2] > 0.8 * 150 and roomy[2] < tight[2]


def test_a_request_that_computes_again_does_so_where_it_decodes(small):
    pools = [{"role": "prefill"}, {"role": "decode", "num_gpu_blocks_override": 65}]
    result = small.run_all(small.plan(pools), small.table(60, 4.0, prompt=100, output=100))
    c = result.recorder.requests.columns()
    assert c["preemptions"].sum() > 0
    assert np.all(c["replica"][c["output_tokens"] > 1] == 1)


@pytest.mark.parametrize(
    ("pools", "keys", "place", "words"),
    [
        ([{"role": "prefill"}], {}, "pools", "decode"),
        ([{"role": "decode"}], {}, "pools", "prefill"),
        ([{"role": "prefill", "fabric": "east"}, {"role": "decode", "fabric": "west"}], {}, "pools[1].fabric", "link"),
        ([{"role": "prefill"}, {"role": "decode", "max_model_len": 512}], {}, "pools[1].max_model_len", "1024"),
        (
            [{"role": "prefill"}, {"role": "decode", "num_gpu_blocks_override": 20}],
            {},
            "pools[1].max_model_len",
            "and 19 fit",
        ),
        ([{"role": "prefill"}, {"role": "decode", "model": "llama-2-7b"}], {}, "pools[1].model", "model"),
        (ROLES, {"disaggregation": {"decode_router": "leest"}}, "disaggregation.decode_router", "leest"),
        (ROLES, {"disaggregation": {"decode_router": PAIRS}}, "disaggregation.decode_router", "pairs"),
        (ROLES, {"disaggregation": {"backlog": 2}}, "disaggregation.backlog", "share"),
    ],
)
def test_plans_that_cannot_hand_over_are_refused(small, pools, keys, place, words):
    with pytest.raises(InputError) as error:
        deploy(small.plan(pools, **keys))
    assert error.value.where.endswith(place) and words in str(error.value)
