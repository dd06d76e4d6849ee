"""Fixtures of several folders: the command line, run in this process; a layer profile of our own making, in
LLMServingSim's format."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from servecast.cli import main

CONFIG = {
    "model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 1000, "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}  # fmt: skip
LAYERS = (
    "embedding", "layernorm", "qkv_proj", "rotary_emb", "o_proj", "gate_up_proj", "act_fn", "down_proj",
    "final_layernorm",
)  # fmt: skip
SIZES = (1, 2, 4, 8, *range(16, 513, 16))
SEQUENCES = (1, 2, 4, 8, 16, 32, 64)
CONTEXTS = (16, 256, 1024, 4096)
META = {
    "vllm_version": "0.19.0", "cuda_version": "13.0", "gpu": "NVIDIA GeForce RTX 4090", "hardware": "RTX4090",
    "profiled_at": "2026-08-17T19:43:32+00:00", "model": "example/tiny", "variant": "bf16", "tp_degrees": [1],
    "attention_grid": {"chunks": "0, 16-512"}, "skew_fit": {"enabled": False},
}  # fmt: skip


class LayerProfiles:
    """Writes profiles into a folder, and knows the formulas behind their times: microseconds, linear in every key, so
    that interpolation is exact."""

    layers = LAYERS

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written = 0

    @staticmethod
    def layer_us(layer: str, tokens: int) -> float:
        """Of a profiled layer."""
        return 2.0 + LAYERS.index(layer) + 0.05 * tokens

    @staticmethod
    def head_us(layer: str, sequences: int) -> float:
        """Of the head and the sampler."""
        return (30.0 if layer == "lm_head" else 3.0) + 0.25 * sequences

    @staticmethod
    def attention_us(chunk: int, before: float, decodes: int, context: float) -> float:
        """Of an attention call."""
        return 4.0 + 0.02 * chunk + 1e-5 * chunk * before + 0.1 * decodes + 4e-4 * decodes * context

    def __call__(
        self, meta: Mapping[str, Any] | None = None, files: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> Path:  # fmt: skip
        """Write a run's folder with `model.json` and `profile/`, and return it.

        meta, config : keys of `meta.yaml` and `model.json` that replace ours. files : further or other files of
        `profile/tp1`, by name.
        """
        self._written += 1
        root = self._folder / f"run{self._written}"
        folder = root / "profile" / "tp1"
        folder.mkdir(parents=True)
        (root / "model.json").write_text(json.dumps(CONFIG | dict(config or {})))
        (root / "profile" / "meta.yaml").write_text(json.dumps(META | dict(meta or {})))  # JSON is YAML
        for name, text in {**self._tables(), **(files or {})}.items():
            data = text.encode()
            (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return root

    def _tables(self) -> dict[str, str]:
        dense = [f"{layer},{size},{self.layer_us(layer, size)}" for layer in LAYERS for size in SIZES]
        heads = [f"{layer},{n},{self.head_us(layer, n)}" for layer in ("lm_head", "sampler") for n in SEQUENCES]
        prompts = [(chunk, before) for chunk in (16, 128, 512) for before in (0, *CONTEXTS)]
        decodes = [(n, context) for n in SEQUENCES for context in CONTEXTS]
        keys = [(0, 0, *d) for d in decodes] + [(*p, *d) for p in prompts for d in [(0, 0), *decodes]]
        attention = [f"{','.join(map(str, key))},{self.attention_us(*key)}" for key in keys]
        return {
            "dense.csv": "\n".join(["layer,tokens,time_us", *dense]),
            "per_sequence.csv": "\n".join(["layer,sequences,time_us", *heads]),
            "attention.csv": "\n".join(["prefill_chunk,kv_prefill,n_decode,kv_decode,time_us", *attention]),
        }


@pytest.fixture
def layer_profile(tmp_path: Path) -> LayerProfiles:
    """A writer of layer profiles."""
    return LayerProfiles(tmp_path)


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def servecast(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run `servecast` with some words."""

    def run(*words: object) -> Outcome:
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # argparse leaves that way, as it does for --help
            code = int(stop.code or 0)
        return Outcome(code, *capsys.readouterr())

    return run
