"""The roofline's regimes, its closed forms for long contexts, and how near it comes to measured kernels."""

from __future__ import annotations

import csv
import gzip
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean, median

import pytest

from servecast.configs.catalog import find_hardware, find_model
from servecast.configs.device import Achieved, HardwareCard, Link
from servecast.configs.huggingface import model_from_config
from servecast.configs.model import Attention, Parallelism, quantized
from servecast.costmodels.base import StageCost, seconds
from servecast.costmodels.operators import AttentionCall, Collective
from servecast.costmodels.roofline import Roofline, RooflineTimes
from servecast.costmodels.shapes import model_kv_shape, parameters, stage_operators, weight_bytes
from servecast.costmodels.transfer import kv_transfer_bytes, swap_seconds

IDEAL = Achieved(1, 1, 1, 1, 1, 0, 0, "the data sheet")


def ideal(name: str) -> HardwareCard:
    return replace(find_hardware(name), achieved=IDEAL)


def prefill(stage: StageCost, tokens: int, context: int = 0) -> float:
    return seconds(stage.piece(((tokens, context),), 0, 0, 0, 0)[0])


def decode(stage: StageCost, requests: int, context: int) -> float:
    return seconds(stage.piece((), requests, requests * context, context, context)[0])


class TestClosedForms:
    """Challenges in Deploying Long-Context Transformers: A Theoretical Peak Performance Analysis (arXiv 2405.08944).

    A 34 B model with the KV cache of Yi-34B and attention over 4,096 numbers, on an A100 80 GB at its data sheet (312
    TFLOP/s, 2 TB/s, PCIe 20 GB/s).

    The forms are those of the roofline with all shares 1 and no fixed parts. They neglect element-wise kernels (norms,
    rotary, activation: bytes only), the head (one row), and the activations of a decode; the tolerances below are these
    terms, added up from the operators.
    """

    L, KV, D, W, F, BW, PCIE, HBM = 60, 8, 128, 68e9, 312e12, 2e12, 20e9, 80e9
    SHORT, LONG = 4096, 50_000

    card = model_from_config(
        {
            "model_type": "llama",
            "hidden_size": 7168,
            "num_attention_heads": 32,
            "num_key_value_heads": KV,
            "head_dim": D,
            "num_hidden_layers": L,
            "intermediate_size": 22_938,  # 34.0e9 parameters in the layers
            "vocab_size": 64,
            "max_position_embeddings": 200_000,
            "torch_dtype": "bfloat16",
        },
        "34b",
    )
    a100 = replace(
        ideal("a100-80gb"), memory_bandwidth=BW, memory_bytes=int(HBM), host=Link(PCIE, 0.0), flops={"bf16": F}
    )
    [stage] = Roofline(card, a100).stages
    operators = stage_operators(card, Parallelism(), 0)
    k = 2 * L * KV * D * 2

    def test_the_model_is_the_one_of_the_form(self) -> None:
        assert parameters(self.card)[0] == pytest.approx(34e9, rel=1e-3)
        assert weight_bytes(self.operators) == pytest.approx(self.W, rel=1e-3)
        assert model_kv_shape(self.card).token_bytes == self.k == 245_760

    @pytest.mark.parametrize(("context", "published"), [(LONG, 14.8), (SHORT, 0.92)])
    def test_prefill(self, context: int, published: float) -> None:
        """S (2P + 2 L S D_h) / F."""
        form = context * (2 * 34e9 + 2 * self.L * context * 4096) / self.F
        assert form == pytest.approx(published, rel=0.005)
        [layers] = self.operators.layers
        moves = sum(op.bytes(context) for op in layers.rows if not isinstance(op, Collective) and op.flops(1) == 0)
        neglected = layers.count * moves / self.BW
        assert neglected < 0.04 * form
        assert prefill(self.stage, context) == pytest.approx(form + neglected, rel=0.002)

    @pytest.mark.parametrize(("context", "users"), [(LONG, 1.0), (SHORT, 11.9)])
    def test_concurrency(self, context: int, users: float) -> None:
        """(HBM - W) / (k S)."""
        left = self.a100.memory_bytes - weight_bytes(self.operators)
        assert left / model_kv_shape(self.card).request_bytes(context) == pytest.approx(users, abs=0.05)

    @pytest.mark.parametrize(("context", "published"), [(LONG, 10.0), (SHORT, 8.6)])
    def test_decode(self, context: int, published: float) -> None:
        """250 steps of (W + k S) / BW. The context grows by 250 meanwhile: at most 250 k / W = 0.1 % more."""
        base, slope, valid, _ = self.stage.piece((), 1, context, context, context)
        assert valid >= 250
        steps = seconds(250 * base + slope * 249 * 250 // 2)
        assert 250 * (self.W + self.k * context) / self.BW == pytest.approx(published, rel=0.005)
        assert steps == pytest.approx(250 * (self.W + self.k * context) / self.BW, rel=0.002)

    @pytest.mark.parametrize(("context", "published"), [(LONG, 1.23), (SHORT, 0.10)])
    def test_context_switch(self, context: int, published: float) -> None:
        """2 k S / BW_pcie: one request out, another in."""
        switch = 2 * swap_seconds(kv_transfer_bytes(self.card, context), self.a100)
        assert switch == pytest.approx(2 * self.k * context / self.PCIE) == pytest.approx(published, abs=0.005)


def test_decode_is_bound_by_bandwidth_and_prefill_by_arithmetic() -> None:
    llama, h100 = find_model("llama-3.1-8b"), ideal("h100")
    [stage] = Roofline(llama, h100).stages
    [faster] = Roofline(llama, replace(h100, memory_bandwidth=2 * h100.memory_bandwidth)).stages
    twice = {kind: peak and 2 * peak for kind, peak in h100.flops.items()}
    [stronger] = Roofline(llama, replace(h100, flops=twice)).stages
    assert decode(stage, 8, 4096) == pytest.approx(2 * decode(faster, 8, 4096), rel=1e-3)
    assert decode(stage, 8, 4096) == pytest.approx(decode(stronger, 8, 4096), rel=1e-3)
    assert prefill(stage, 8192) < 1.8 * prefill(stronger, 8192) + prefill(faster, 8192) / 9
    assert prefill(stage, 8192) == pytest.approx(prefill(faster, 8192), rel=0.06)


def test_a_decode_reads_weights_and_cache_once() -> None:
    card = find_model("llama-3.1-70b")
    h200 = ideal("h200")
    [stage] = Roofline(card, h200).stages
    operators = stage_operators(card, Parallelism(), 0)
    read = weight_bytes(operators) - card.vocab_size * card.hidden_size * 2  # all but the embedding table
    cache = model_kv_shape(card).token_bytes * 16 * 8000
    assert decode(stage, 16, 8000) == pytest.approx((read + cache) / h200.memory_bandwidth, rel=0.01)


def test_a_large_prefill_runs_at_the_achieved_rate() -> None:
    card, h100 = find_model("llama-3.1-8b"), find_hardware("h100")
    [stage] = Roofline(card, h100).stages
    head = card.vocab_size * card.hidden_size * 2
    flops = 2 * (parameters(card)[0] - head) * 8192 + 4 * 32 * 4096 * 8192 * 8193 / 2
    assert 0.55 < flops / prefill(stage, 8192) / h100.peak("bf16") < h100.achieved.compute


@pytest.mark.parametrize(("name", "hardware"), [("llama-3.1-70b", "h100"), ("mixtral-8x7b", "a100-80gb")])
def test_tensor_parallelism_speeds_up_and_communication_limits_it(name: str, hardware: str) -> None:
    models = {tp: Roofline(find_model(name), find_hardware(hardware), tensor_parallel_size=tp) for tp in (1, 2, 4, 8)}
    for run in (lambda stage: prefill(stage, 4096), lambda stage: decode(stage, 32, 2000)):
        times = {tp: run(model.stages[0]) for tp, model in models.items()}
        for tp in (2, 4, 8):
            assert times[tp // 2] / 2 < times[tp] < times[tp // 2]


def test_pipeline_stages_add_up_to_the_whole() -> None:
    h100 = find_hardware("h100")
    for name in ("llama-3.1-8b", "gpt-oss-120b", "deepseek-v3"):
        whole = Roofline(find_model(name), h100).stages[0]
        parts = Roofline(find_model(name), h100, pipeline_parallel_size=4).stages
        assert sum(prefill(stage, 3000, 500) for stage in parts) == pytest.approx(prefill(whole, 3000, 500), rel=1e-3)
        assert sum(decode(stage, 64, 900) for stage in parts) == pytest.approx(decode(whole, 64, 900), rel=1e-3)


def test_a_mixture_reads_more_experts_with_more_tokens() -> None:
    """At small batches a decode of 64 costs far more than 64 / 1 of nothing: the experts it wakes have to be read."""
    [moe] = Roofline(find_model("qwen3-30b-a3b"), find_hardware("h100")).stages
    [dense] = Roofline(find_model("qwen3-32b"), find_hardware("h200")).stages
    assert decode(moe, 32, 100) > 3 * decode(moe, 1, 100)
    assert decode(dense, 32, 100) < 1.2 * decode(dense, 1, 100)


def test_sliding_windows_bound_the_cost_of_long_contexts() -> None:
    h100 = find_hardware("h100")
    [sliding], [full] = (Roofline(find_model(n), h100).stages for n in ("mistral-7b", "mistral-7b-v0.3"))
    assert decode(sliding, 8, 3000) == pytest.approx(decode(full, 8, 3000), rel=0.002)
    assert decode(sliding, 8, 30_000) == decode(sliding, 8, 8000) < decode(full, 8, 30_000)


def test_fp8_weights_halve_the_time_of_a_small_decode() -> None:
    llama, h100 = find_model("llama-3.1-70b"), ideal("h100")
    [plain], [narrow] = Roofline(llama, h100).stages, Roofline(quantized(llama, "fp8"), h100).stages
    assert decode(narrow, 1, 100) == pytest.approx(decode(plain, 1, 100) / 2, rel=0.02)
    assert prefill(narrow, 8192) < 0.7 * prefill(plain, 8192)


def data(folder: str) -> Path:
    root = os.environ.get("SERVECAST_DATA")
    if not root:
        pytest.skip("SERVECAST_DATA is not set: the measured kernel tables are third-party data")
    return Path(root) / folder


def rows(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        yield from csv.DictReader(file)


@pytest.mark.parametrize(("run", "hardware"), [("rtx4090", "rtx-4090"), ("rtxpro6000", "rtx-pro-6000")])
def test_measured_kernels_of_a_llama_layer(run: str, hardware: str) -> None:
    """The profiles that two cards' achieved shares were fitted to (casys-kaist/LLMServingSim): matrices within 12 % on
    average, decode attention over 50 us within 20 % at the median, prefill attention over 100 us within 40 %."""
    profile = data(f"vllm-runs/{run}-llama-3.1-8b-tp1/profile/tp1")
    times = RooflineTimes(find_hardware(hardware))
    [layers] = stage_operators(find_model("llama-3.1-8b"), Parallelism(), 0).layers
    gemms = {op.name: op for op in layers.rows if not isinstance(op, Collective) and op.flops(1)}
    errors = [
        abs(math.log(times.rows(gemms[row["layer"]], int(row["tokens"]))[0] / float(row["time_us"]) * 1e6))
        for row in rows(profile / "dense.csv")
        if row["layer"] in gemms
    ]
    assert len(errors) > 500 and mean(errors) < 0.12
    call = AttentionCall(Attention(32, 8, 128), 2.0, 2, "bf16")
    decodes, prefills = [], []
    for row in rows(profile / "attention.csv.gz"):
        chunk, before, count, context = (
            int(row[key]) for key in ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")
        )
        measured = float(row["time_us"]) * 1e-6
        fixed = times.attention(call)[0]
        if not chunk and measured > 50e-6:
            decodes.append(abs(math.log((fixed + times.decode(call, count).at(count * context)) / measured)))
        elif not count and measured > 100e-6:
            prefills.append(abs(math.log((fixed + times.prefill(call, chunk).at(before)) / measured)))
    assert len(decodes) > 40 and median(decodes) < 0.2
    assert len(prefills) > 40 and median(prefills) < 0.4
