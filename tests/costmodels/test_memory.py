"""Predicted KV blocks against recorded ones, with one formula.

Residuals, predicted - recorded, in GB a GPU (positive: we promise more than the engine found):

| case | source | recorded | predicted | residual |
|---|---|---|---|---|
| LLaMA-7B, A10 24 GB, 12,000 batched tokens | Llumnix artifact | 792 blocks | 804 | +0.10 |
| ... 8,700 | | 831 | 836 | +0.04 |
| ... 7,500 | | 832 | 848 | +0.13 |
| ... 4,400 | | 862 | 878 | +0.13 |
| Llama-3.1-8B, RTX 4090, vLLM 0.19.0 | LLMServingSim run | 2,588 blocks | 2,556 | -0.07 |
| Llama-2-7B, A100 80 GB, vLLM of December 2023 | vLLM pull request 2031 | 7,449 blocks | 7,458 | +0.08 |
| Llama-2-70B, 4 x A100 80 GB | vLLM pull request 2031 | 31,615 blocks | 31,573 | -0.06 |
| OPT-13B, A100 80 GB, 25 cuts | DistServe max_num_tokens.csv | | | +0.34 to +0.48 |
| OPT-66B, 23 cuts | | | | +0.21 to +0.36 |
| OPT-175B, 28 cuts | | | | +0.08 to +0.37 |

DistServe's figures are arithmetic (its worker.py): 0.95 of the device less 1 % of it less the weights, with the whole
token and position tables on every rank, which its engine keeps and vLLM does not; the comparison gives our ranks the
same tables (without them the residual reaches +1.44 at tensor parallel 8). For the RTX PRO 6000 the peer's 36,578
blocks are an upper bound, 0.9 x 96 GiB less the weights and nothing else; we predict 35,764.
"""

from __future__ import annotations

import csv
import os
from dataclasses import replace
from pathlib import Path

import pytest

from servecast.configs.catalog import find_hardware, find_model
from servecast.configs.huggingface import model_from_config
from servecast.configs.model import ModelCard, Parallelism, quantized
from servecast.costmodels.memory import KVCapacity, kv_capacity
from servecast.errors import InputError

MARGIN = 0.5  # GB a GPU


def residual(capacity: KVCapacity, recorded_tokens: int) -> float:
    """GB a GPU that the prediction is above the record."""
    return (capacity.num_tokens - recorded_tokens) * capacity.shape.token_bytes / 1e9


@pytest.mark.parametrize(("batched", "blocks"), [(12_000, 792), (8_700, 831), (7_500, 832), (4_400, 862)])
def test_llumnix(batched: int, blocks: int) -> None:
    capacity = kv_capacity(find_model("llama-7b"), find_hardware("a10"), max_num_batched_tokens=batched)
    assert abs(residual(capacity, 16 * blocks)) < MARGIN


def test_rtx_4090_run() -> None:
    capacity = kv_capacity(find_model("llama-3.1-8b"), find_hardware("rtx-4090"), max_num_seqs=256)
    assert abs(residual(capacity, 16 * 2588)) < MARGIN


@pytest.mark.parametrize(("name", "tp", "blocks"), [("llama-2-7b", 1, 7449), ("llama-2-70b", 4, 31_615)])
def test_vllm_pull_request_2031(name: str, tp: int, blocks: int) -> None:
    """Counted before the change that the pull request makes, which takes other processes' memory into account."""
    capacity = kv_capacity(
        find_model(name), find_hardware("a100-80gb"), Parallelism(tp), max_num_batched_tokens=4096, max_num_seqs=256
    )
    assert abs(residual(capacity, 16 * blocks)) < MARGIN


def test_rtx_pro_6000_bound() -> None:
    card, hardware = find_model("llama-3.1-8b"), find_hardware("rtx-pro-6000")
    capacity = kv_capacity(card, hardware, max_num_seqs=128)
    assert 35_000 < capacity.num_blocks < 36_578
    bound = (0.9 * 96 * 2**30 - capacity.weight_bytes) / (16 * capacity.shape.token_bytes)
    assert int(bound) == 36_578


def opt(name: str) -> ModelCard:
    if name != "opt-175b":
        return find_model(name)
    config = {
        "model_type": "opt",
        "hidden_size": 12288,
        "ffn_dim": 49152,
        "num_hidden_layers": 96,
        "num_attention_heads": 96,
        "vocab_size": 50272,
        "max_position_embeddings": 2048,
        "torch_dtype": "float16",
    }
    return model_from_config(config, name)


def test_distserve_table() -> None:
    root = os.environ.get("SERVECAST_DATA")
    if not root:
        pytest.skip("SERVECAST_DATA is not set: the DistServe table is third-party data")
    hardware = find_hardware("a100-80gb")
    with (Path(root) / "distserve/max_num_tokens.csv").open() as file:
        table = list(csv.DictReader(file))
    residuals = {}
    for row in table:
        card, tp, pp = opt(row["model"].removeprefix("facebook/")), int(row["tp"]), int(row["pp"])
        copies = card.vocab_size * card.hidden_size * 2 * (1 - 1 / tp)
        capacity = kv_capacity(
            card,
            hardware,
            Parallelism(tp, pp),
            gpu_memory_utilization=0.95,
            max_num_batched_tokens=2048,
            max_num_seqs=128,
            reserved_bytes=copies,
        )
        residuals[card.name, tp, pp] = residual(capacity, int(row["max_num_tokens"]))
    assert len(residuals) == len(table) == 76
    assert all(abs(gap) < MARGIN for gap in residuals.values()), residuals


def test_terms_add_up_and_can_be_printed() -> None:
    capacity = kv_capacity(
        find_model("llama-3.1-70b"),
        find_hardware("h100"),
        Parallelism(4),
        gpu_memory_utilization=0.92,
        reserved_bytes=1e9,
    )
    spent = capacity.weight_bytes + capacity.activation_bytes + capacity.framework_bytes + capacity.reserved_bytes
    assert capacity.kv_bytes == pytest.approx(0.92 * capacity.device_bytes - spent)
    assert capacity.reserved_bytes == 1e9
    assert capacity.num_blocks == int(capacity.kv_bytes / (16 * 80 * 2 * 2 * 128 * 2))
    text = "\n".join(capacity.lines())
    for word in ("device memory", "x 0.92 utilisation", "weights", "activation", "framework", "reserved", "tokens"):
        assert word in text


def test_more_of_everything() -> None:
    card, hardware = find_model("llama-3.1-8b"), find_hardware("h100")

    def tokens(**settings: object) -> int:
        return kv_capacity(card, hardware, **settings).num_tokens  # type: ignore[arg-type]

    plain = tokens()
    assert tokens(gpu_memory_utilization=0.95) > plain > tokens(max_num_batched_tokens=16_384)
    assert tokens(max_num_seqs=1024) < plain < tokens(parallel=Parallelism(2))
    assert tokens(kv_cache_dtype="fp8") == pytest.approx(2 * plain, rel=1e-3)
    assert kv_capacity(quantized(card, "fp8"), hardware).num_tokens > plain
    assert tokens(block_size=32) == pytest.approx(plain, abs=32)


def test_the_fullest_pipeline_stage_decides() -> None:
    card, hardware = find_model("opt-66b"), find_hardware("a100-80gb")
    capacity = kv_capacity(card, hardware, Parallelism(2, 3))  # 21, 22 and 21 layers
    assert capacity.stage == 1
    assert capacity.shape.token_bytes == 22 * 2 * 36 * 128 * 2


def test_windows_and_states_take_a_constant() -> None:
    hardware = find_hardware("h100")
    gpt = kv_capacity(find_model("gpt-oss-120b"), hardware)
    assert gpt.shape.constant_bytes == 128 * 18 * 2 * 8 * 64 * 2 and gpt.shape.token_bytes == 18 * 2 * 8 * 64 * 2
    mistral = kv_capacity(find_model("mistral-7b"), hardware)
    assert mistral.num_blocks == int(mistral.kv_bytes // (131_072 * 16))


def test_state_space_layers_count_requests() -> None:
    layers = {"hidden_size": 256, "num_hidden_layers": 4, "vocab_size": 1000, "torch_dtype": "float16"}
    state = {"num_heads": 8, "state_size": 16, "n_groups": 1, "conv_kernel": 4}
    mamba = kv_capacity(model_from_config({"model_type": "mamba2", **layers, **state}, "mamba"), find_hardware("t4"))
    assert mamba.shape.state_bytes == 4 * (512 * 16 + (512 + 32) * 3) * 2
    assert mamba.num_blocks == int(mamba.kv_bytes / mamba.shape.state_bytes) and mamba.block_size > 10**9
    heads = {"num_attention_heads": 4, "intermediate_size": 512, "max_position_embeddings": 4096}
    inner = {"mamba_n_heads": 8, "mamba_n_groups": 1, "mamba_d_state": 16, "mamba_d_conv": 4}
    config = {"model_type": "bamba", "attn_layer_indices": [1], **layers, **heads, **inner}
    hybrid = kv_capacity(model_from_config(config, "hybrid"), find_hardware("t4"), Parallelism(1, 2))
    assert (hybrid.stage, hybrid.block_size) == (0, 16) and hybrid.shape.token_bytes == 2 * 256 * 2


def test_a_model_that_does_not_fit() -> None:
    with pytest.raises(InputError, match=r"llama-3\.1-70b leaves no room .* on h100: device memory 79\.\d+ GiB"):
        kv_capacity(find_model("llama-3.1-70b"), find_hardware("h100"))
    small = replace(find_hardware("h100"), memory_bytes=10**9)
    with pytest.raises(InputError, match="expected more ranks, a larger device, or smaller weights"):
        kv_capacity(find_model("opt-13b"), small, Parallelism(2))
