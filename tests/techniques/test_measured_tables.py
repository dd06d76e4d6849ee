"""Techniques on measured tables: what was measured stays, what was not falls back, and the report says which."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from servecast.configs.catalog import find_hardware, find_model
from servecast.configs.model import Parallelism
from servecast.configs.strict import build
from servecast.configs.techniques import Techniques
from servecast.costmodels.base import check_piece
from servecast.costmodels.table import Provenance, TableSet, make_table
from servecast.costmodels.tablecost import MeasuredCost

CARD, H100 = find_model("llama-3.1-8b"), find_hardware("h100")


def tables() -> TableSet:
    """Products, decode attention and prompts of a made-up H100, twice as slow as its data sheet."""
    n, k, m = np.array(list(itertools.product([256, 262144], [256, 32768], [1, 16, 4096]))).T
    gemm = {
        "dtype": np.full(len(n), "bf16"),
        "n": n,
        "k": k,
        "m": m,
        "time_s": 2e-6 + n * k / 1.4e12 + m * n * k / 4e14,
    }
    labels = {"dtype": "bf16", "kv_dtype": "bf16", "heads": 32, "kv_heads": 8, "head_dim": 128, "window": 0}

    def attention(a: list[int], b: list[int], names: tuple[str, str], **more: float) -> dict[str, np.ndarray]:
        x, y = np.array(list(itertools.product(a, b))).T
        columns = {name: np.full(len(x), value) for name, value in {**labels, **more}.items()}
        return {**columns, names[0]: x, names[1]: y}

    decode = attention([1, 64, 512], [1, 2048, 32768], ("batch", "context"))
    decode["time_s"] = 8e-6 + decode["batch"] * decode["context"] * 2.4e-9
    prefill = attention([1, 512, 16384], [0, 32768], ("chunk", "context"), batch=1)
    prefill["time_s"] = 1e-5 + prefill["chunk"] * (2e-8 + 3e-12 * (prefill["chunk"] + prefill["context"]))
    found = {"gemm": gemm, "decode_attention": decode, "prefill_attention": prefill}
    about = Provenance("none", "these tests", "none", hardware="h100")
    return TableSet(about, {kind: make_table(kind, columns, kind) for kind, columns in found.items()}, "made up")


def cost(**techniques: object) -> MeasuredCost:
    given = build(Techniques, techniques)
    return MeasuredCost(tables(), CARD, H100, Parallelism(), techniques=given)


@pytest.mark.parametrize(
    ("techniques", "attention"),
    [
        ({}, "measured"),
        ({"kv": "h2o"}, "fallback"),
        ({"kv": "kivi"}, "fallback"),
        ({"shared_prefix": [{"tokens": 100}]}, "fallback"),
        ({"layers": {"share": 0.5}}, "measured"),
        ({"layers": {"share": 0.5, "path": "token"}}, "measured"),
        ({"padded_prefill": True}, "measured"),
        ({"paging": {"decode_factor": 1.5, "host_seconds_per_block": 1e-7}}, "measured"),
    ],
)
def test_what_is_measured_with_a_technique(techniques: dict, attention: str) -> None:
    model = cost(**techniques)
    operators = model.describe()["operators"]
    assert (operators["decode_attention"], operators["qkv_proj"]) == (attention, "measured")
    batches = [([], [50, 900]), ([(300, 0), (300, 40)], [7]), ([(64, 0)], [])]
    for parts, contexts in batches:
        check_piece(model.stages[0], parts, contexts, iterations=80)
        meters = [stages[0].piece(parts, len(contexts), sum(contexts), 0, 0)[0] for stages in model.meters.values()]
        assert all(part >= 0 for part in meters)
    assert ("techniques" in model.describe()) is bool(techniques)


def test_verification_on_measured_attention() -> None:
    """As many reads as measured for one token; more only where products of the further ones bound."""
    model = cost()
    one, three = (m.stages[0].piece((), 4, 4 * 8000, 0, 0)[0] for m in (model, model.verifying(3)))
    assert one < three < 1.1 * one
    assert model.verifying(3).times.decode_origin(model.operators[0].layers[0].attention) == "measured"
