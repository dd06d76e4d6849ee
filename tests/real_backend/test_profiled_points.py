"""Every point of a profile, on the kernels: what `profile --device cuda` calls, interpreted where there is no GPU."""

from __future__ import annotations

import pytest
import torch

from servecast.configs.huggingface import model_from_config
from servecast.profiling.grids import DecodeGrid, Grid, PrefillGrid
from servecast.profiling.operators import Operators
from servecast.real_backend.model import Model
from servecast.real_backend.operators import TritonOperators

DENSE = {
    "model_type": "llama", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 48, "vocab_size": 64, "max_position_embeddings": 256,
    "torch_dtype": "float16",
}  # fmt: skip
CONFIGS = {
    "dense": DENSE,
    "experts": {**DENSE, "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2,
                "moe_intermediate_size": 16},
    "in a window": {**DENSE, "model_type": "mistral", "sliding_window": 24},
}  # fmt: skip
GRID = Grid(
    tokens=(1, 17), sequences=(1, 3), decode=DecodeGrid((1, 3), (1, 40)), prefill=PrefillGrid((1, 17), (0, 33), (2,)),
    host=(1,), attention_tokens=200,
)  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("eight_bit", [False, True])
@pytest.mark.parametrize("tp", [1, 2])
def test_every_point_can_be_called(lab, name, eight_bit, tp):
    model = Model(
        model_from_config(CONFIGS[name], name), device=lab.device, num_blocks=24, block_size=16,
        operators=TritonOperators(), tensor_parallel_size=tp,
    )  # fmt: skip
    model.cache.normal_()
    if eight_bit:
        model = model.with_cache(torch.float8_e4m3fn)
    operators = Operators(model, GRID, tp)
    points = list(operators.attention_points() if eight_bit else operators.points())
    kinds = {"decode_attention", "prefill_attention"} | (set() if eight_bit else {"layer", "sequence"})
    assert {point.kind for point in points} == kinds
    for point in points:
        if point.kind.endswith("attention"):
            assert point.keys["kv_dtype"] == ("fp8" if eight_bit else "fp16")
            assert point.keys["heads"] == 6 // tp and point.keys["window"] == (24 if name == "in a window" else 0)
        calls = operators.calls(point)
        assert calls
        for call in calls:
            out = call()
            for tensor in out if isinstance(out, tuple) else (out,):
                assert tensor is None or tensor.double().isfinite().all(), point
