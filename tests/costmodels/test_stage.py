"""The law of pieces for many models, cuts and batches, and the seam through which tables replace operators."""

from __future__ import annotations

import random

import pytest

from servecast.configs.catalog import find_hardware, find_model
from servecast.configs.huggingface import model_from_config
from servecast.configs.model import ModelCard, Parallelism
from servecast.costmodels.base import CostModel, StageCost, check_piece, seconds, ticks
from servecast.costmodels.composed import ComposedCost
from servecast.costmodels.curve import Curve
from servecast.costmodels.host import HostOverhead
from servecast.costmodels.operators import AttentionCall, Gemm, OperatorTimes, RowOperator, Timing
from servecast.costmodels.roofline import Roofline, RooflineTimes
from servecast.costmodels.stage import Stage

SMALL = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 8192,
}
MAMBA = {"mamba_n_heads": 8, "mamba_n_groups": 1, "mamba_d_state": 16, "mamba_d_conv": 4}
OWN = {
    "gemma3": model_from_config({"model_type": "gemma3_text", "sliding_window": 100, **SMALL}, "gemma3"),
    "bamba": model_from_config({"model_type": "bamba", "attn_layer_indices": [3], **SMALL, **MAMBA}, "bamba"),
}


def card(name: str) -> ModelCard:
    return OWN.get(name) or find_model(name)


CASES = [
    ("llama-3.1-8b", "h100", {}),
    ("llama-3.1-8b", "t4", {"tensor_parallel_size": 2, "pipeline_parallel_size": 3}),
    ("llama-2-70b", "a40", {"tensor_parallel_size": 4, "pipeline_parallel_size": 2}),
    ("mistral-7b", "a100-80gb", {}),
    ("qwen3-30b-a3b", "h200", {"tensor_parallel_size": 8, "kv_cache_dtype": "fp8"}),
    ("mixtral-8x7b", "h100", {"tensor_parallel_size": 2, "data_parallel_size": 4, "enable_expert_parallel": True}),
    ("mixtral-8x7b", "h100", {"data_parallel_size": 2}),
    ("gpt-oss-120b", "b200", {"tensor_parallel_size": 2}),
    (
        "deepseek-v3",
        "ascend-910c",
        {"tensor_parallel_size": 4, "data_parallel_size": 8, "enable_expert_parallel": True},
    ),
    ("opt-66b", "a100-80gb", {"pipeline_parallel_size": 16}),
    ("gemma3", "b200", {"tensor_parallel_size": 2, "pipeline_parallel_size": 8}),
    ("bamba", "b200", {"pipeline_parallel_size": 2}),
]


def batch(draw: random.Random) -> tuple[list[tuple[int, int]], list[int]]:
    """Prompt parts (tokens, context) and decode contexts, small and large."""
    parts = [
        (draw.choice([1, 16, 300, 2048]), draw.choice([0, 1, 90, 4000, 100_000])) for _ in range(draw.randrange(4))
    ]
    longest = draw.choice([3, 200, 5000, 130_000])
    contexts = [draw.randrange(longest) for _ in range(draw.choice([0, 1, 7, 250]))]
    return parts, contexts if contexts or parts else [longest]


@pytest.mark.parametrize(("name", "hardware", "cut"), CASES)
def test_the_law_of_pieces(name: str, hardware: str, cut: dict[str, int]) -> None:
    model = Roofline(card(name), find_hardware(hardware), **cut)  # type: ignore[arg-type]
    draw = random.Random(name)
    for stage in model.stages:
        for _ in range(40):
            check_piece(stage, *batch(draw), iterations=300)


def price(stage: StageCost, parts: list[tuple[int, int]], contexts: list[int]) -> int:
    return stage.piece(parts, len(contexts), sum(contexts), 0, 0)[0]


@pytest.mark.parametrize(("name", "hardware", "cut"), CASES)
def test_longer_and_larger_is_never_cheaper(name: str, hardware: str, cut: dict[str, int]) -> None:
    """Exactly so in each context; in the number of tokens up to the 0.1 % by which whole ticks may fall short."""
    stage = Roofline(card(name), find_hardware(hardware), **cut).stages[-1]  # type: ignore[arg-type]
    draw = random.Random(name)
    for _ in range(40):
        parts, contexts = batch(draw)
        base = price(stage, parts, contexts)
        by = draw.choice([1, 100, 5000])
        if contexts:
            assert price(stage, parts, [contexts[0] + by, *contexts[1:]]) >= base
            assert price(stage, parts, [*contexts, by]) >= base * 0.999
        if parts:
            (tokens, context), *rest = parts
            assert price(stage, [(tokens, context + by), *rest], contexts) >= base
            assert price(stage, [(tokens + by, context), *rest], contexts) >= base * 0.999
        assert price(stage, [*parts, (by, 0)], contexts) >= base


def test_it_is_a_cost_model() -> None:
    model: CostModel = Roofline(find_model("llama-3.1-8b"), find_hardware("h100"))
    assert model.label == "estimated" and model.extremes is False and len(model.stages) == 1
    described = model.describe()
    assert described["label"] == "estimated" and described["hardware_source"] and described["achieved"]


def test_memories_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servecast.costmodels.stage._KEPT", 10)
    stage = Roofline(find_model("llama-3.1-8b"), find_hardware("h100")).stages[0]
    assert isinstance(stage, Stage)
    first = [stage.piece(((n, n),), n, n * 50, 0, 0) for n in range(1, 40)]
    assert len(stage._decodes) <= 10 and len(stage._prefills) <= 10 and len(stage._tokens) <= 10
    assert [stage.piece(((n, n),), n, n * 50, 0, 0) for n in range(1, 40)] == first


class PartlyMeasured:
    """A table of two operators, as a later cost model has it: the rest comes from a roofline behind."""

    KNOTS = ((0.0, 1000.0, 40_000.0), (2e-6, 3e-6, 50e-6))  # contexts, seconds a decode: own breakpoints
    RANGE = 50_000.0

    def __init__(self, behind: OperatorTimes) -> None:
        self.behind = behind
        self.collective, self.attention = behind.collective, behind.attention
        self.prefill, self.together = behind.prefill, behind.together

    def rows(self, operator: RowOperator, rows: int) -> Timing:
        if isinstance(operator, Gemm) and operator.name == "qkv_proj":
            time = 1e-5 + 1e-8 * rows
            return time, time if rows > 4096 else 0.0
        return self.behind.rows(operator, rows)

    def decode(self, operator: AttentionCall, decodes: int) -> Curve:
        xs, ys = self.KNOTS
        slope = (ys[2] - ys[1]) / (xs[2] - xs[1])
        return Curve(tuple(decodes * x for x in xs), tuple(decodes * y for y in ys), slope, decodes * self.RANGE)


def test_a_table_replaces_single_operators() -> None:
    llama, h100 = find_model("llama-3.1-8b"), find_hardware("h100")
    times = PartlyMeasured(RooflineTimes(h100))
    measured = ComposedCost(
        llama, h100, Parallelism(), times, label="mixed", kv_cache_dtype="auto", host=HostOverhead()
    )
    [stage], [plain] = measured.stages, Roofline(llama, h100).stages
    draw = random.Random(1)
    for _ in range(60):
        check_piece(stage, *batch(draw), iterations=300)

    def attention(contexts: list[int]) -> float:
        return seconds(price(stage, [], contexts) - price(stage, [], [0] * len(contexts))) / 32

    assert attention([500] * 8) == pytest.approx(8 * 0.5e-6, rel=2e-3)
    assert attention([1000] * 8) == pytest.approx(8 * 1e-6, rel=2e-3)
    assert attention([20_500] * 8) == pytest.approx(8 * (1e-6 + 47e-6 / 2), rel=2e-3)
    _, _, valid, outside = stage.piece((), 8, 8 * 900, 0, 0)
    assert valid == 100 and outside == 0  # the table's own breakpoint is 100 iterations away
    base, _, _, outside = stage.piece((), 1, 60_000, 0, 0)
    slope = (50e-6 - 3e-6) / 39_000
    assert 0 < outside < base and outside == pytest.approx(ticks(32 * (50e-6 + 20_000 * slope)), rel=2e-3)
    assert stage.piece((), 1, 50_000, 0, 0)[2:] == (1, 0)  # the last context within the table's range
    _, _, _, outside = stage.piece(((5000, 0),), 0, 0, 0, 0)
    assert outside == ticks(32 * (1e-5 + 5e-5))
    change = seconds(price(stage, [(100, 0)], []) - price(plain, [(100, 0)], []))
    qkv = next(op for op in stage._operators.layers[0].rows if op.name == "qkv_proj")  # type: ignore[attr-defined]
    assert change == pytest.approx(32 * (1.1e-5 - times.behind.rows(qkv, 100)[0]), rel=1e-3)
