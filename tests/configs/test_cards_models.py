"""Model cards: every shipped one against its published size, and `config.json` files of all families."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from servecast.configs.catalog import find_model, names
from servecast.configs.huggingface import model_from_config
from servecast.configs.model import (
    Attention,
    DenseMLP,
    LatentAttention,
    MoE,
    Parallelism,
    StateSpace,
    check_parallel,
    quantized,
)
from servecast.costmodels.shapes import model_kv_shape, parameters
from servecast.errors import InputError

# Published sizes in billions: model cards and papers of each model. Where only one decimal is published, half of it is
# allowed on top of 0.2 %. `active` of DeepSeek-V3 (36.6) and gpt-oss (5.13) leaves the embedding table out.
PUBLISHED = {
    "llama-3.1-8b": (8.03, None),
    "llama-3.1-70b": (70.55, None),
    "llama-3-8b": (8.03, None),
    "llama-3-70b": (70.55, None),
    "llama-2-7b": (6.738, None),
    "llama-2-13b": (13.016, None),
    "llama-2-70b": (68.977, None),
    "llama-7b": (6.738, None),
    "llama-68m": (0.068, None),
    "bitnet-0.7b": (0.729, None),  # TeLLMe calls it 0.73B
    "mamba2-2.7b": (2.703, None),
    "mistral-7b": (7.242, None),
    "mistral-7b-v0.3": (7.248, None),
    "mixtral-8x7b": (46.70, 12.9),
    "qwen3-32b": (32.76, None),
    "qwen3-30b-a3b": (30.53, 3.3),
    "qwen3-235b-a22b": (235.09, 22.2),
    "yi-34b": (34.39, None),
    "opt-13b": (12.85, None),
    "opt-66b": (65.72, None),
    "gpt-oss-120b": (116.83, 5.13),
    "deepseek-v2-lite": (15.7, 2.4),
    "deepseek-v3": (671.03, 36.6),
    "minimax-m2.5": (229, 10),  # as the hub counts the checkpoint's tensors; "10B active" without both token tables
}
WITHOUT_TABLE = {"gpt-oss-120b", "deepseek-v2-lite", "deepseek-v3"}


def test_every_card_has_a_published_size() -> None:
    assert set(names("models")) == set(PUBLISHED)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_parameters_match_the_published_count(name: str) -> None:
    card = find_model(name)
    total, active = (count / 1e9 for count in parameters(card))
    published, published_active = PUBLISHED[name]
    assert total == pytest.approx(published, rel=0.002)
    if published_active is None:
        assert active == total
    else:
        table = card.vocab_size * card.hidden_size / 1e9
        left_out = 2 * table if name == "minimax-m2.5" else table if name in WITHOUT_TABLE else 0.0
        digit = 0.5 if published_active == round(published_active) else 0.05  # half of the last one published
        assert active - left_out == pytest.approx(published_active, rel=0.002, abs=digit + 0.005)


def test_kv_bytes_a_token() -> None:
    assert model_kv_shape(find_model("llama-3.1-8b")).token_bytes == 2 * 32 * 8 * 128 * 2
    assert model_kv_shape(find_model("llama-3.1-8b"), "fp8").token_bytes == 2 * 32 * 8 * 128
    assert model_kv_shape(find_model("deepseek-v3")).token_bytes == 61 * (512 + 64) * 2
    gpt = model_kv_shape(find_model("gpt-oss-120b"))
    assert gpt.token_bytes == 18 * 2 * 8 * 64 * 2 and gpt.windows == ((128, 18 * 2 * 8 * 64 * 2),)
    mistral = model_kv_shape(find_model("mistral-7b"))
    assert mistral.token_bytes == 0 and mistral.request_bytes(10_000) == mistral.request_bytes(4096)


def config(model_type: str, **changes: Any) -> dict[str, Any]:
    plain = {
        "model_type": model_type,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 8,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "vocab_size": 32000,
        "max_position_embeddings": 8192,
        "torch_dtype": "bfloat16",
    }
    return {key: value for key, value in {**plain, **changes}.items() if value != "absent"}


def windows(card: Any) -> list[int | None]:
    return [card.groups[group].mixer.window for group in card.order]


def test_windows_follow_the_family() -> None:
    def of(model_type: str, **changes: Any) -> list[int | None]:
        return windows(model_from_config(config(model_type, **changes), "x"))

    assert of("mistral", sliding_window=64) == [64] * 8
    assert of("mistral", sliding_window=None) == [None] * 8
    assert of("llama", sliding_window=64) == [None] * 8
    assert of("gemma2", sliding_window=64) == [64, None] * 4
    assert of("gemma3_text", sliding_window=64) == [64] * 5 + [None] + [64] * 2
    assert of("qwen3", sliding_window=64) == [None] * 8
    assert of("qwen3", sliding_window=64, use_sliding_window=True, max_window_layers=6) == [None] * 6 + [64] * 2
    kinds = ["full_attention", "sliding_attention"] * 4
    assert of("qwen3", sliding_window=64, use_sliding_window=True, layer_types=kinds) == [None, 64] * 4


def test_head_dim_is_read_and_derived() -> None:
    assert model_from_config(config("qwen3", head_dim=128), "x").groups[0].mixer == Attention(
        16, 4, 128, head_norms=True
    )
    assert model_from_config(config("llama"), "x").groups[0].mixer == Attention(16, 4, 64)
    assert model_from_config(config("qwen2"), "x").groups[0].mixer == Attention(16, 4, 64, bias=True)


def test_nested_text_config_is_followed() -> None:
    nested = {
        "model_type": "gemma3",
        "torch_dtype": "bfloat16",
        "text_config": config("gemma3_text", vocab_size="absent"),
    }
    card = model_from_config(nested, "x")
    assert card.vocab_size == 262208 and card.tie_word_embeddings and card.dtype == "bfloat16"


def test_dense_layers_between_experts() -> None:
    moe = {"num_experts": 32, "num_experts_per_tok": 4, "moe_intermediate_size": 512}
    card = model_from_config(config("qwen3_moe", **moe, decoder_sparse_step=2, mlp_only_layers=[1]), "x")
    assert [isinstance(card.groups[g].mlp, MoE) for g in card.order] == [False, False, False, True] + [False, True] * 2
    shared = model_from_config(config("qwen2_moe", **moe, shared_expert_intermediate_size=2048), "x")
    assert shared.groups[0].mlp == MoE(32, 4, 512, shared_intermediate=2048)


def test_falcon() -> None:
    falcon = {
        "model_type": "falcon",
        "hidden_size": 14848,
        "num_hidden_layers": 80,
        "num_attention_heads": 232,
        "num_kv_heads": 8,
        "new_decoder_architecture": True,
        "vocab_size": 65024,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    card = model_from_config(falcon, "falcon-180b")
    assert card.groups[0].mixer == Attention(232, 8, 64)
    assert parameters(card)[0] / 1e9 == pytest.approx(179.5, rel=0.002)


def test_state_space_models_and_hybrids() -> None:
    mamba2 = {  # state-spaces/mamba2-2.7b
        "model_type": "mamba2",
        "hidden_size": 2560,
        "num_hidden_layers": 64,
        "num_heads": 80,
        "head_dim": 64,
        "state_size": 128,
        "n_groups": 1,
        "conv_kernel": 4,
        "vocab_size": 50288,
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
    }
    card = model_from_config(mamba2, "mamba2-2.7b")
    assert parameters(card)[0] / 1e9 == pytest.approx(2.70, rel=0.005)
    shape = model_kv_shape(card)
    assert shape.token_bytes == 0 and shape.state_bytes == 64 * (5120 * 128 + (5120 + 256) * 3) * 2

    jamba = {  # ai21labs/Jamba-v0.1: 51.6 B, 12 B active
        "model_type": "jamba",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "attn_layer_period": 8,
        "attn_layer_offset": 4,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "num_experts": 16,
        "num_experts_per_tok": 2,
        "mamba_d_state": 16,
        "mamba_d_conv": 4,
        "mamba_expand": 2,
        "mamba_dt_rank": 256,
        "vocab_size": 65536,
        "max_position_embeddings": 262144,
        "torch_dtype": "bfloat16",
    }
    card = model_from_config(jamba, "jamba")
    assert sum(isinstance(card.groups[g].mixer, Attention) for g in card.order) == 4
    total, active = parameters(card)
    assert total / 1e9 == pytest.approx(51.57, rel=0.005) and active / 1e9 == pytest.approx(12.1, rel=0.02)

    bamba = config(
        "bamba", attn_layer_indices=[3], mamba_n_heads=32, mamba_n_groups=1, mamba_d_state=64, mamba_d_conv=4
    )
    card = model_from_config(bamba, "bamba")
    assert [isinstance(card.groups[g].mixer, StateSpace) for g in card.order] == [True] * 3 + [False] + [True] * 4


def test_quantised_weights_are_understood() -> None:
    def of(**quantization: Any) -> tuple[float, str, float]:
        card = model_from_config(config("llama", quantization_config=quantization), "x")
        return card.linear.bits, card.linear.compute, card.experts.bits

    assert of(quant_method="fp8", activation_scheme="dynamic") == (8, "fp8", 8)
    assert of(quant_method="awq", bits=4, group_size=128) == (4 + 20 / 128, "bf16", 4 + 20 / 128)
    assert of(quant_method="gptq", bits=8, group_size=-1) == (8, "bf16", 8)
    assert of(quant_method="mxfp4", modules_to_not_convert=["model.layers.*.self_attn"]) == (16, "bf16", 4.25)
    assert of(quant_method="modelopt", quant_algo="NVFP4") == (4.5, "fp4", 4.5)
    weights = {"num_bits": 8, "type": "float"}
    group = {"weights": weights, "input_activations": {"num_bits": 8}}
    assert of(quant_method="compressed-tensors", config_groups={"group_0": group}) == (8, "fp8", 8)
    only = {"weights": {"num_bits": 4, "type": "int", "group_size": 128}, "input_activations": None}
    assert of(quant_method="compressed-tensors", config_groups={"group_0": only})[:2] == (4.125, "bf16")
    with pytest.raises(InputError, match=r"quantization_config\.quant_method.*'fp9'.*did you mean 'fp8'"):
        of(quant_method="fp9")
    assert quantized(find_model("llama-3.1-8b"), "fp8").linear.bits == 8
    with pytest.raises(InputError, match="quantization: no weight format is called 'fp7'"):
        quantized(find_model("llama-3.1-8b"), "fp7")


def test_float32_is_served_as_float16() -> None:
    assert model_from_config(config("llama", torch_dtype="float32"), "x").dtype == "float16"
    assert model_from_config(config("llama", torch_dtype="absent", dtype="bfloat16"), "x").dtype == "bfloat16"
    with pytest.raises(InputError, match=r"torch_dtype.*'int3'"):
        model_from_config(config("llama", torch_dtype="int3"), "x")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "absent"}, "model_type: missing"),
        ({"model_type": "lama"}, "model_type: no supported architecture is called 'lama'.*did you mean 'llama'"),
        ({"hidden_size": "absent"}, "hidden_size: missing; expected a whole number"),
        ({"num_hidden_layers": 0}, r"num_hidden_layers: 0 \(number\); expected a whole number, at least 1"),
        ({"num_attention_heads": "many"}, r"num_attention_heads: 'many' \(text\)"),
        (
            {"num_attention_heads": 12, "num_key_value_heads": 12},
            "head_dim: missing, and hidden_size 1024 is no multiple",
        ),
        ({"num_key_value_heads": 3}, r"num_key_value_heads: 3 \(number\); expected a divisor of the 16"),
        ({"intermediate_size": "absent"}, "intermediate_size: missing"),
    ],
)
def test_mistakes_name_the_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model_from_config(config(**{"model_type": "llama", **values}), "x")


def test_layer_types_must_fit() -> None:
    with pytest.raises(InputError, match=r"layer_types\[1\]: no supported layer type is called 'chunked_attention'"):
        kinds = ["full_attention", "chunked_attention"] * 4
        model_from_config(config("gpt_oss", sliding_window=8, layer_types=kinds), "x")
    with pytest.raises(InputError, match=r"layer_types.*a list of 8 entries"):
        model_from_config(config("gpt_oss", sliding_window=8, layer_types=["full_attention"]), "x")


def test_catalog_takes_names_repositories_files_and_folders(tmp_path: Path) -> None:
    assert find_model("meta-llama/Llama-3.1-8B") == find_model("llama-3.1-8b")
    assert find_model("llama-3.1-8b").name == "llama-3.1-8b"
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config("llama")))
    assert find_model(str(folder)) == find_model(str(folder / "config.json"))
    assert find_model(str(folder)).name == "my-model"
    with pytest.raises(InputError, match=r"model: no model is called 'llama-3\.1-9b'.*did you mean 'llama-3\.1-8b'"):
        find_model("llama-3.1-9b")
    with pytest.raises(InputError, match="no such file"):
        find_model(str(tmp_path / "none.json"))
    (folder / "config.json").write_text(json.dumps(config("llama", vocab_size=-1)))
    with pytest.raises(InputError, match=r"my-model/config\.json: vocab_size: -1"):
        find_model(str(folder))


def test_stages_are_cut_as_vllm_does() -> None:
    card = model_from_config(config("llama", num_hidden_layers=10), "x")
    assert [counts[0] for counts in card.stage_counts(4)] == [2, 3, 3, 2]
    assert [counts[0] for counts in card.stage_counts(3)] == [3, 4, 3]
    gpt = find_model("gpt-oss-120b")
    assert gpt.stage_counts(4) == ((5, 4), (4, 5), (5, 4), (4, 5))
    assert [sum(column) for column in zip(*gpt.stage_counts(5), strict=True)] == [18, 18]


@pytest.mark.parametrize(
    ("name", "parallel", "message"),
    [
        ("yi-34b", Parallelism(3), "tensor_parallel_size: 3 does not fit the 56 attention heads of yi-34b"),
        ("qwen3-30b-a3b", Parallelism(64), "tensor_parallel_size: 64 does not fit the 32 attention heads"),
        ("llama-7b", Parallelism(1, 33), "pipeline_parallel_size: 33 does not fit the 32 layers.*at most 32"),
        ("llama-7b", Parallelism(1, 1, 1, True), "enable_expert_parallel: true for llama-7b, which has no experts"),
        ("mixtral-8x7b", Parallelism(8, 1, 2, True), "enable_expert_parallel: 16 does not fit the 8 experts"),
        ("opt-13b", Parallelism(16), "tensor_parallel_size: 16 does not fit the 40 attention heads"),
    ],
)
def test_cuts_that_do_not_fit(name: str, parallel: Parallelism, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_parallel(find_model(name), parallel)


def test_cuts_that_fit() -> None:
    check_parallel(find_model("qwen3-30b-a3b"), Parallelism(8))  # 4 KV heads, copied twice
    check_parallel(find_model("deepseek-v3"), Parallelism(8, 2, 4, True))
    with pytest.raises(InputError, match="data_parallel_size: 0"):
        Parallelism(data_parallel_size=0)


def test_deepseek_is_latent_with_dense_layers_first() -> None:
    card = find_model("deepseek-v3")
    assert card.order == (0,) * 3 + (1,) * 58
    assert isinstance(card.groups[0].mixer, LatentAttention) and card.groups[0].mlp == DenseMLP(18432)
