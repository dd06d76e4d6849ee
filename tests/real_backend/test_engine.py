"""The real engine: its model against a dense reference, and its decisions against the simulator's."""

from __future__ import annotations

import dataclasses
import json
from time import monotonic, thread_time

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from servecast.configs.huggingface import model_from_config
from servecast.configs.plan import plan_from
from servecast.costmodels.base import TICKS_PER_SECOND
from servecast.errors import InputError
from servecast.real_backend import reference
from servecast.real_backend.batch import Row, make_batch
from servecast.real_backend.clocks import CpuClock, WallClock
from servecast.real_backend.engine import RealEngine
from servecast.real_backend.model import Model
from servecast.real_backend.operators import EPSILON, TorchOperators, TritonOperators
from servecast.real_backend.serve import Server, make_prompts
from servecast.sim.report.report import build_report
from servecast.sim.run import run
from servecast.traces.columns import Labels, PrefixBlocks
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable

DENSE = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96, "vocab_size": 300,
    "max_position_embeddings": 512, "torch_dtype": "float16",
}  # fmt: skip
EXPERTS = {**DENSE, "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
CONFIGS = {
    "dense": DENSE,
    "tied, biased, in a window": {**DENSE, "model_type": "mistral", "tie_word_embeddings": True, "attention_bias": True,
                                  "sliding_window": 9},
    "experts": EXPERTS,
}  # fmt: skip


def dense(model: Model, tokens: list[int]) -> torch.Tensor:
    """Logits of every token of one sequence, by the textbook: no cache, no pages, no chunks."""
    mixer = model.layers[0].mixer
    at = torch.arange(len(tokens), device=model.device)
    angles = model.angles.to(model.dtype)
    x = model.embedding[torch.tensor(tokens, device=model.device)]
    for layer in model.layers:
        normed = reference.rms_norm(x, layer.norms[0], EPSILON)
        qkv = F.linear(normed, layer.matrices["qkv_proj"], layer.biases.get("qkv_proj"))
        q, key, value = qkv.view(len(tokens), -1, mixer.head_dim).split(
            [mixer.heads, mixer.kv_heads, mixer.kv_heads], dim=1
        )
        if layer.head_norms:
            q, key = (x / (x * x).mean(-1, keepdim=True).add(EPSILON).sqrt() * w
                      for x, w in zip((q, key), layer.head_norms, strict=True))  # fmt: skip
        q, key = reference.rotary(q, at, angles), reference.rotary(key, at, angles)
        key, value = (part.repeat_interleave(mixer.heads // mixer.kv_heads, 1) for part in (key, value))
        scores = torch.einsum("ihd,jhd->hij", q, key) * mixer.head_dim**-0.5
        hidden = at[None, :] > at[:, None]
        if mixer.window:
            hidden |= at[None, :] <= at[:, None] - mixer.window
        mixed = torch.einsum("hij,jhd->ihd", scores.masked_fill(hidden, float("-inf")).softmax(-1), value)
        x = x + F.linear(mixed.flatten(1), layer.matrices["o_proj"], layer.biases.get("o_proj"))
        normed = reference.rms_norm(x, layer.norms[1], EPSILON)
        if "router" in layer.matrices:
            shares = F.linear(normed, layer.matrices["router"]).softmax(-1)
            kept, chosen = shares.topk(layer.mlp.top_k, dim=-1)
            parts, up, down = [], layer.matrices["up"], layer.matrices["down"]
            for i, row in enumerate(normed):
                outs = [down[e] @ reference.silu_mul(up[e] @ row) for e in chosen[i]]
                parts.append(sum(w * out for w, out in zip(kept[i] / kept[i].sum(), outs, strict=True)))
            x = x + torch.stack(parts)
        else:
            wide = F.linear(normed, layer.matrices["gate_up_proj"])
            x = x + F.linear(reference.silu_mul(wide), layer.matrices["down_proj"])
    return F.linear(reference.rms_norm(x, model.norm, EPSILON), model.head)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("kernels", [False, True], ids=["torch", "triton"])
def test_logits_are_those_of_a_dense_model(lab, name, kernels):
    """Two requests through chunks, decodes and mixed batches, over scattered blocks; every logit counts."""
    dtype = torch.float32 if kernels else torch.float64
    card = model_from_config(CONFIGS[name], name)
    operators = TritonOperators() if kernels else TorchOperators()
    model = Model(card, device=lab.device, num_blocks=24, block_size=8, dtype=dtype, operators=operators)
    model.cache.fill_(float("nan"))
    for layer in model.layers:
        for weight in (*layer.norms, *(layer.head_norms or ())):
            weight.copy_(1 + 0.2 * lab.random(*weight.shape))
    assert (model.layers[0].head_norms is not None) == (name == "experts")
    tokens = lab.whole(300, 2, 40).tolist()
    tables = torch.randperm(24, device=lab.device)[:12].view(2, 6).tolist()
    expected = [dense(model, row) for row in tokens]
    iterations = [  # (request, computed before, computed then)
        [(0, 0, 11)], [(0, 11, 20), (1, 0, 7)], [(1, 7, 30), (0, 20, 21)], [(1, 30, 31), (0, 21, 22)], [(1, 31, 32)],
    ]  # fmt: skip
    for iteration in iterations:
        rows = [Row(tokens[r][a:b], a, tables[r]) for r, a, b in iteration]
        chunks = [row for row in rows if len(row.tokens) > 1]
        logits = model.forward(make_batch(chunks, rows[len(chunks) :], model.shape()))
        for (r, _, b), got in zip(iteration, logits, strict=True):
            off = (got - expected[r][b - 1]).norm() / expected[r][b - 1].norm()
            assert off < (1e-6 if not kernels else 2e-3 if lab.real else 1e-4), (name, iteration, float(off))


@pytest.mark.parametrize("kernels", [False, True], ids=["torch", "triton"])
def test_an_eight_bit_cache_holds_what_the_other_does_in_eight_bits(lab, kernels):
    """Both ways of computing round the same keys and values to the same numbers; what was there stays."""
    card = model_from_config(DENSE, "tiny")
    operators = TritonOperators() if kernels else TorchOperators()
    eight, full = (
        Model(card, device=lab.device, num_blocks=8, block_size=8, dtype=torch.float32, cache_dtype=dtype,
              operators=operators)
        for dtype in (torch.float8_e4m3fn, None)
    )  # fmt: skip
    batch = make_batch([Row(lab.whole(300, 20).tolist(), 0, [5, 1, 3])], [], eight.shape())
    logits = [model.forward(batch) for model in (eight, full)]
    layer = eight.layers[0], full.layers[0]  # of the first one the inputs are the same
    for cache, other in ((layer[0].keys, layer[1].keys), (layer[0].values, layer[1].values)):
        exact = other[[5, 1]].float()
        limit = 0.3 if kernels and not lab.real else 0.04  # 3 bits of mantissa; the interpreter loses carries
        assert (cache[[5, 1]].float() - exact).norm() < limit * exact.norm()
        assert not cache[[0, 2, 4, 6, 7]].float().any()
    assert 0 < (logits[0] - logits[1]).norm() < (0.3 if kernels and not lab.real else 0.1) * logits[1].norm()
    saved = eight.save([5, 1, 3])
    eight.restore(saved, [0, 2, 4])
    assert torch.equal(eight.cache[:, [0, 2, 4]].float(), eight.cache[:, [5, 1, 3]].float())


@pytest.fixture
def plan_for(tmp_path):
    """A plan with a tiny model and little memory."""

    def make(config=DENSE, **pool):
        path = tmp_path / "tiny.json"
        path.write_text(json.dumps(config))
        pool = {"name": "p", "hardware": "h100", "max_model_len": 256, "num_gpu_blocks_override": 40,
                "max_num_seqs": 8, "max_num_batched_tokens": 64, **pool}  # fmt: skip
        predictor = {"name": "oracle", "sigma": 0.5}
        pool = {key: value for key, value in pool.items() if value is not None}
        return plan_from({"model": str(path), "engine": "vllm-0.19", "pools": [pool], "predictor": predictor})

    return make


def workload(requests: int, rate: float, seed: int = 0, shared: bool = False) -> RequestTable:
    """shared : prompts begin like others', with one of three chains of prefix blocks of 16 tokens."""
    stream = Stream(seed, "workload")
    arrival = np.cumsum(stream.exponential(requests)) / rate
    prompts, answers = 1 + stream.integers(requests, 90), 1 + stream.integers(requests, 40)
    blocks = None
    if shared:
        prompts = prompts // 3 * 2 + 16
        chains, alike = stream.integers(requests, 3), stream.integers(requests, 6)
        rows = [
            [1000 * chain + i if i < same else 10_000 + 10 * row + i for i in range(n // 16)]
            for row, (chain, same, n) in enumerate(zip(chains.tolist(), alike.tolist(), prompts.tolist(), strict=True))
        ]
        blocks = PrefixBlocks.of(16, "floor", rows)
    tenants = Labels.of([f"t{number}" for number in stream.integers(requests, 3).tolist()])
    priority = stream.integers(requests, 3)
    return RequestTable(arrival - arrival[0], prompts, answers, tenant=tenants, priority=priority, blocks=blocks)


def iterations(outcome):
    """Start, length, decodes and prompt tokens of every iteration, leaps written out."""
    c = {name: column.astype(np.int64) for name, column in outcome.recorder.leaps[0].columns().items()}
    rows = []
    for start, base, slope, k, decodes, tokens in zip(
        *(c[n].tolist() for n in ("start", "base", "slope", "iterations", "decodes", "prefill_tokens")), strict=True
    ):
        for j in range(k):
            rows.append((start, base + j * slope, decodes, tokens))
            start += base + j * slope
    return rows


UNCACHED = {"async_scheduling": False, "enable_prefix_caching": False}
SHARED = {"enable_prefix_caching": True, "num_gpu_blocks_override": 28}
POLICIES = {
    "vllm v1": UNCACHED,
    "long prompts in parts": {**UNCACHED, "long_prefill_token_threshold": 16},
    "shortest first": {**UNCACHED, "queue": "sjf"},
    "by priority": {**UNCACHED, "queue": "priority"},
    "fair between tenants": {**UNCACHED, "queue": "vtc"},
    "experts": {**UNCACHED, "config": EXPERTS},
    "shared prefixes": {**SHARED, "async_scheduling": False},
    "shared prefixes in larger blocks": {**SHARED, "async_scheduling": False, "block_size": 32,
                                         "num_gpu_blocks_override": 16},
    "shared prefixes in smaller blocks": {**SHARED, "async_scheduling": False, "block_size": 8,
                                          "num_gpu_blocks_override": 52},
    "shared prefixes, longest first": {**SHARED, "queue": "longest_prefix", "async_scheduling": False},
    "shared prefixes, the costly stay": {**SHARED, "eviction": "cost_aware"},
    "shared prefixes, tails go first": {**SHARED, "eviction": "tail_first"},
    "decided ahead": {},
    "decided ahead, shared prefixes": SHARED,
    "an 8-bit cache": {**UNCACHED, "kv_cache_dtype": "fp8"},
    "swapping": {"engine": "vllm-0.6", "kv": "swap", "swap_space": 0.001, "max_num_batched_tokens": 256},
    "vllm v0": {"engine": "vllm-0.6", "max_num_batched_tokens": 256},
    "sarathi": {"engine": "sarathi-serve"},
    "sglang": {"engine": "sglang-0.5", "num_gpu_blocks_override": 260, "max_num_batched_tokens": 256},
    "tensorrt-llm": {"engine": "trtllm-1.0", "max_num_batched_tokens": 256},
    "orca": {"engine": "orca", "max_num_batched_tokens": None},
    "static": {"engine": "static", "max_num_batched_tokens": None},
}  # fmt: skip
UNPREEMPTED = (
    "sglang",
    "tensorrt-llm",
    "orca",
    "static",
)  # they reserve what a request may come to need, or most of it


@pytest.mark.parametrize("name", POLICIES)
def test_simulator_and_real_engine_decide_alike(plan_for, name):
    """On one clock, the same admissions, chunks, preemptions and compositions, to the tick."""
    plan, table = plan_for(**POLICIES[name]), workload(40, 2000.0, shared="shared" in name)
    simulated, served = run(table, plan), Server(plan, "cpu", ready=False).serve(table)
    for column, values in simulated.recorder.requests.columns().items():
        np.testing.assert_array_equal(values, served.recorder.requests.columns()[column], err_msg=column)
    assert iterations(simulated) == iterations(served)
    assert all(served.invariants.values()), served.invariants
    requests = served.recorder.requests.columns()
    assert (requests["preemptions"].sum() > 0) == (name not in UNPREEMPTED)
    assert (requests["cached_tokens"].sum() > 0) == ("shared" in name)
    reports = build_report(simulated), build_report(served)
    for key in ("mean_itl_ms", "p50_itl_ms", "p99_itl_ms", "mean_tpot_ms"):
        assert reports[0][key] == pytest.approx(reports[1][key]), key


SERVED = ["vllm v1", "swapping", "experts", "decided ahead, shared prefixes", "shared prefixes in smaller blocks",
          "shared prefixes, the costly stay"]  # fmt: skip


@pytest.mark.parametrize("name", SERVED)
def test_tokens_do_not_depend_on_who_shares_the_batch(plan_for, name):
    """Through chunks, preemptions, swaps and shared blocks, each gets what the textbook model says."""
    size = POLICIES[name].get("block_size", 16)
    choice = {**POLICIES[name], "num_gpu_blocks_override": 18 * 16 // size}
    plan, table = plan_for(**choice), workload(16, 5000.0, shared="shared" in name)
    card = model_from_config(choice.get("config", DENSE), "tiny")
    model = Model(card, device="cpu", num_blocks=18 * 16 // size, block_size=size, dtype=torch.float64)
    model.cache.fill_(float("nan"))
    prompts = [prompt.tolist() for prompt in make_prompts(table, 300, 1)]
    answers, engines = {}, []

    def engine(*arguments, **keywords):
        engines.append(RealEngine(
            *arguments, model=model, prompt=lambda r: list(prompts[r.row]),
            deliver=lambda r, tokens: answers.update({r.row: list(tokens)}), **keywords,
        ))  # fmt: skip
        return engines[0]

    requests = run(table, plan, engine=engine).recorder.requests.columns()
    assert requests["preemptions"].sum() > 0
    assert (requests["cached_tokens"].sum() > 0) == ("shared" in name)
    for row, prompt in enumerate(prompts):
        assert len(answers[row]) == table.output_tokens[row]
        expected = dense(model, prompt + answers[row])[len(prompt) - 1 : -1].argmax(-1)
        assert answers[row] == expected.tolist()
    pool = engines[0].pool  # at the end every block is free, and in one place
    pool.take(pool.total)
    assert sorted(pool.tables.handed) == list(range(pool.total))


@pytest.mark.parametrize(("rule", "size"), [("floor", 16), ("ceil", 16), ("ceil", 4)])
def test_prompts_share_exactly_what_their_prefix_blocks_say(rule, size):
    blocks = PrefixBlocks.of(size, rule, [[1, 2, 3], [1, 2, 4], [5]])
    table = RequestTable(np.zeros(3), np.array([3 * size + (0 if rule == "ceil" else 5), 3 * size, size]),
                         np.ones(3, np.int64), blocks=blocks)  # fmt: skip
    first, second, third = make_prompts(table, 50_000, 0)
    assert [len(p) for p in (first, second, third)] == table.prompt_tokens.tolist()
    assert (first[: 2 * size] == second[: 2 * size]).all()
    assert (first[2 * size : 3 * size] != second[2 * size :]).any() and (first[:size] != third).any()
    answers = dataclasses.replace(blocks, scope="context")
    with pytest.raises(InputError, match="prefix ids of prompts and answers"):
        make_prompts(dataclasses.replace(table, blocks=answers), 50_000, 0)


@pytest.mark.parametrize("clock", [WallClock, CpuClock])
def test_on_a_real_clock_time_is_what_passes(plan_for, clock):
    plan, table = plan_for(num_gpu_blocks_override=20), workload(12, 30.0)
    wall, used = monotonic(), thread_time()
    served = Server(plan, "cpu").serve(table, clock=clock())
    wall, used = monotonic() - wall, thread_time() - used
    report = build_report(served)
    assert all(served.invariants.values()), served.invariants
    assert report["completed"] == 12 and report["total_output_tokens"] == table.output_tokens.sum()
    assert report["duration"] > table.arrival[-1]
    log = served.recorder.leaps[0].columns()
    assert (np.diff(log["start"]) >= log["base"][:-1]).all()  # one iteration at a time
    busy = log["base"].sum() / TICKS_PER_SECOND
    if clock is WallClock:
        assert busy <= report["duration"] <= wall
        assert wall >= table.arrival[-1]  # arrivals were waited for
    else:
        assert busy <= used  # however long the processor was with others
    assert log["base"].sum() == served.engines[0].busy


def test_what_the_engine_cannot_run_is_refused(plan_for):
    for changes, found in (
        ({"replicas": 2}, "pools: 2 accelerators; expected a plan of one replica"),
        ({"kv_cache_dtype": "int8"}, "kv_cache_dtype: int8; expected auto or fp8"),
        ({"techniques": {"padded_prefill": True}}, "techniques: given; expected none"),
        ({"prepend_tokens": 5}, "prepend_tokens: given; expected none"),
    ):
        with pytest.raises(InputError, match=found):
            Server(plan_for(**changes), "cpu")
    for config, found in (
        ({**DENSE, "model_type": "opt", "ffn_dim": 128}, "of another kind than Llama's"),
        ({**DENSE, "quantization_config": {"quant_method": "fp8"}}, "stores its weights in 8 bits"),
    ):
        with pytest.raises(InputError, match=found):
            Server(plan_for(config), "cpu")


def test_a_head_that_the_kernels_cannot_tile_is_refused_before_anything_runs():
    card = model_from_config({**DENSE, "head_dim": 24}, "odd")
    Model(card, device="cpu", num_blocks=2, block_size=16)  # torch can
    with pytest.raises(InputError, match="head_dim: 24; expected a power of two from 16 to 256"):
        Model(card, device="cpu", num_blocks=2, block_size=16, operators=TritonOperators())
    with pytest.raises(InputError, match="block_size: 1; expected a power of two from 8 to 64"):
        Model(model_from_config(DENSE, "x"), device="cpu", num_blocks=2, block_size=1, operators=TritonOperators())
