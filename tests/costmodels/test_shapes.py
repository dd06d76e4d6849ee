"""Operations, bytes and weights of single operators, against hand arithmetic."""

from __future__ import annotations

import pytest

from servecast.configs.catalog import find_model
from servecast.configs.model import Attention, LatentAttention, Parallelism, StateSpace, quantized
from servecast.costmodels.attention import decode_work, prefill_work
from servecast.costmodels.operators import AttentionCall, Collective, Experts, StageOperators
from servecast.costmodels.shapes import cache_bytes, kv_shape, model_kv_shape, stage_operators, weight_bytes
from servecast.errors import InputError


def stages(name: str, parallel: Parallelism) -> list[StageOperators]:
    card = find_model(name)
    return [stage_operators(card, parallel, stage) for stage in range(parallel.pipeline_parallel_size)]


def test_a_llama_layer() -> None:
    [stage] = stages("llama-3.1-8b", Parallelism())
    [group] = stage.layers
    gemms = {op.name: op for op in group.rows if not isinstance(op, Collective)}
    assert group.count == 32 and not any(isinstance(op, Collective) for op in group.rows)
    assert gemms["qkv_proj"].flops(10) == 2 * 10 * 4096 * (4096 + 2 * 1024)
    assert gemms["gate_up_proj"].bytes(10) == 2 * (4096 * 28672 + 10 * (4096 + 28672))
    assert gemms["activation"].bytes(10) == 10 * 3 * 14336 * 2
    assert weight_bytes(stage) == pytest.approx(2 * 8.03026e9, rel=1e-5)


def test_tensor_parallel_ranks_hold_their_share() -> None:
    [whole], [part] = stages("llama-3.1-8b", Parallelism()), stages("llama-3.1-8b", Parallelism(8))
    assert weight_bytes(part) == pytest.approx(weight_bytes(whole) / 8, rel=1e-3)
    assert kv_shape(part).token_bytes == kv_shape(whole).token_bytes / 8
    assert [op.name for op in part.layers[0].rows if isinstance(op, Collective)] == [
        "attention_all_reduce",
        "mlp_all_reduce",
    ]


def test_kv_heads_are_copied_beyond_their_number() -> None:
    shapes = [kv_shape(stages("qwen3-30b-a3b", Parallelism(tp))[0]).token_bytes for tp in (1, 2, 4, 8)]
    assert [shapes[0] / shape for shape in shapes] == [1, 2, 4, 4]


def test_latent_cache_is_on_every_rank() -> None:
    [whole], [part] = stages("deepseek-v3", Parallelism()), stages("deepseek-v3", Parallelism(8))
    assert kv_shape(part).token_bytes == kv_shape(whole).token_bytes == 61 * 576 * 2


def test_pipeline_stages_hold_everything_once() -> None:
    for name in ("llama-3.1-8b", "gpt-oss-120b", "deepseek-v3", "opt-13b"):
        card, cut = find_model(name), stages(name, Parallelism(1, 4))
        table = card.vocab_size * card.hidden_size * 2 if card.tie_word_embeddings else 0  # embedding and head apart
        assert sum(map(weight_bytes, cut)) == weight_bytes(stages(name, Parallelism())[0]) + table
        assert sum(kv_shape(stage).token_bytes for stage in cut) == model_kv_shape(card).token_bytes
        assert cut[0].tokens and not cut[0].sequences and cut[-1].sequences and not cut[1].tokens


def experts(parallel: Parallelism) -> Experts:
    [stage] = stages("mixtral-8x7b", parallel)
    return next(op for op in stage.layers[0].rows if isinstance(op, Experts))


def test_expert_weights_are_read_as_tokens_reach_them() -> None:
    """One token reads top_k of 8 experts, many read all: E (1 - (1 - k/E)^t)."""
    mixtral = experts(Parallelism())
    read = [mixtral.touched(tokens) for tokens in (1, 2, 4, 8, 64)]
    assert read[:2] == pytest.approx([2, 8 * (1 - 0.75**2)]) and read == sorted(read)
    assert read[-1] == pytest.approx(8, abs=1e-6)
    assert mixtral.bytes(1) == pytest.approx(2 * 3 * 4096 * 14336 * 2, rel=1e-3)
    assert mixtral.bytes(64) > 0.99 * mixtral.weight_bytes
    assert mixtral.flops(10) == 2 * 10 * 2 * 3 * 4096 * 14336


def test_experts_are_cut_or_dealt_out() -> None:
    whole = experts(Parallelism())
    cut, dealt = experts(Parallelism(4)), experts(Parallelism(4, enable_expert_parallel=True))
    assert (cut.held, cut.intermediate) == (8, 14336 // 4) and (dealt.held, dealt.intermediate) == (2, 14336)
    for part in (cut, dealt):
        assert part.weight_bytes == whole.weight_bytes / 4 and part.flops(16) == whole.flops(16) / 4
    both = experts(Parallelism(2, data_parallel_size=4, enable_expert_parallel=True))
    assert (both.held, both.batches) == (1, 4) and both.visits(8) == 8 * 4 * 2 / 8


def test_data_parallel_experts_exchange_tokens() -> None:
    def kinds(parallel: Parallelism) -> list[str]:
        [stage] = stages("mixtral-8x7b", parallel)
        return [op.kind for op in stage.layers[0].rows if isinstance(op, Collective)]

    assert kinds(Parallelism(4, enable_expert_parallel=True)) == ["all_reduce", "all_reduce"]
    assert kinds(Parallelism(1, 1, 4, True)) == ["all_to_all", "all_to_all"]
    assert kinds(Parallelism(1, 1, 4)) == ["all_gather", "reduce_scatter"]


def test_attention_work() -> None:
    call = AttentionCall(Attention(32, 8, 128), 2.0, 2, "bf16")
    work = decode_work(call, 4)  # contexts that sum to 1000, and each token sees itself
    assert work.flops.at(1000) == 4 * 1004 * 32 * 128
    assert work.bytes.at(1000) == 1004 * 2 * 8 * 128 * 2 + 4 * 2 * 32 * 128 * 2
    work = prefill_work(call, 100)
    assert work.flops.at(50) == 4 * sum(50 + i for i in range(1, 101)) * 32 * 128
    assert work.bytes.at(50) == 150 * 2 * 8 * 128 * 2 + 100 * 2 * 32 * 128 * 2


@pytest.mark.parametrize(("tokens", "window"), [(100, 64), (64, 100), (10, 4096), (4096, 10), (1, 5)])
def test_windowed_prefill_counts_the_pairs(tokens: int, window: int) -> None:
    call = AttentionCall(Attention(1, 1, 1, window), 2.0, 2, "bf16")
    work = prefill_work(call, tokens)
    for context in (0, 1, window // 2, max(0, window - tokens), window - 1, window, 10 * window):
        pairs = sum(min(context + i, window) for i in range(1, tokens + 1))
        assert work.flops.at(context) == pytest.approx(4 * pairs, rel=0.005)
    assert decode_work(call, 3).flops.at(10**6) == 4 * 3 * window


def test_latent_attention_work() -> None:
    call = AttentionCall(LatentAttention(16, 512, 128, 64, 128), 2.0, 2, "bf16")
    assert decode_work(call, 1).flops.at(999) == 2 * 16 * 1000 * (512 + 64 + 512)
    assert decode_work(call, 1).bytes.at(999) == 1000 * 576 * 2 + 16 * (576 + 512) * 2
    assert prefill_work(call, 1).flops.at(0) == 2 * 16 * (128 + 64 + 128)


def test_a_state_costs_the_same_at_any_context() -> None:
    call = AttentionCall(StateSpace(64, 16, 96, 4, 200), 2.0, 2, "fp16")
    for work in (decode_work(call, 5), prefill_work(call, 5)):
        assert work.flops.at(0) == work.flops.at(1e6) == 6 * 5 * 64 * 16
    assert decode_work(call, 5).bytes.at(0) == 2 * 2 * (5 * (64 * 16 + 96 * 3) + 5 * 64)


def test_quantised_weights_and_cache() -> None:
    card = find_model("llama-3.1-8b")
    plain = weight_bytes(stage_operators(card, Parallelism(), 0))
    table = 2 * 2 * 128256 * 4096  # embedding and head stay in bf16
    narrow = weight_bytes(stage_operators(quantized(card, "fp8"), Parallelism(), 0))
    assert narrow - table == pytest.approx((plain - table) / 2, rel=1e-4)
    assert cache_bytes(card, "auto") == 2 and cache_bytes(card, "fp8") == 1
    with pytest.raises(InputError, match="kv_cache_dtype: no KV cache format is called 'fp6'"):
        cache_bytes(card, "fp6")
