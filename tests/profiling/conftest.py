"""What the profiling tests share: a very small model and grid. With torch installed they run and fail, never skip."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest
import yaml

DENSE = {
    "model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48, "vocab_size": 64, "max_position_embeddings": 256,
    "torch_dtype": "bfloat16",
}  # fmt: skip
EXPERTS = {**DENSE, "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
GRID = {
    "tokens": [1, 4, 16], "sequences": [1, 2, 4], "decode": {"batch": [1, 2, 4], "context": [1, 8, 64]},
    "prefill": {"chunk": [1, 4, 16], "context": [0, 8], "batch": [2]}, "host": [1, 2], "attention_tokens": 400,
}  # fmt: skip

if find_spec("torch") is None:
    collect_ignore_glob = ["test_*.py"]

    def pytest_report_header() -> str:
        return "tests/profiling: not run, as torch is not installed (pip install 'servecast[gpu]')"


@pytest.fixture
def files(tmp_path):
    """A model's config.json and a grid, as files."""

    def make(config=DENSE, grid=GRID):
        model, sizes = tmp_path / "small.json", tmp_path / "grid.yaml"
        model.write_text(json.dumps(config))
        sizes.write_text(yaml.safe_dump(grid))
        return model, sizes

    make.dense, make.experts, make.grid = DENSE, EXPERTS, GRID
    return make
