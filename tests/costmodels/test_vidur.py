"""Vidur's rules of an iteration's time, on tables small enough to add up by hand; its reader of profiling CSVs."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from servecast.configs.catalog import find_hardware, find_model
from servecast.configs.model import Parallelism
from servecast.costmodels.base import TICKS_PER_SECOND, check_piece
from servecast.costmodels.readers import vidur
from servecast.costmodels.tablecost import MeasuredCost
from servecast.costmodels.vidur import VidurStage, read_cost
from servecast.errors import InputError

LAYERS = 10
TOKENS = {8: 1.0, 16: 2.0, 24: 3.0}
DECODE = {(1, 64): 0.5, (2, 64): 0.7, (2, 128): 0.9}
PREFILL = {(0, 8): 0.3, (64, 8): 0.4, (128, 11): 0.6}


@pytest.fixture
def stage() -> VidurStage:
    return VidurStage(LAYERS, TOKENS, DECODE, PREFILL)


def ms(piece) -> float:
    return piece[0] / TICKS_PER_SECOND * 1e3


def test_decodes_go_by_their_mean_context_in_steps_of_64(stage):
    """The context counts the token that is written: 63 in the cache make 64, 64 make 65 and so the next step."""
    assert ms(stage.piece((), 1, 63, 0, 0)) == pytest.approx(LAYERS * (1.0 + 0.5))
    assert ms(stage.piece((), 2, 2 * 63, 0, 0)) == pytest.approx(LAYERS * (1.0 + 1.1 * 0.7))
    assert ms(stage.piece((), 2, 2 * 64, 0, 0)) == pytest.approx(LAYERS * (1.0 + 1.1 * 0.9))
    assert ms(stage.piece((), 2, 63 + 64, 0, 0)) == pytest.approx(LAYERS * (1.0 + 1.1 * 0.7))  # the mean is floored


def test_prompts_go_by_the_root_of_their_squares_and_the_sum_of_rounded_contexts(stage):
    assert ms(stage.piece(((8, 0),), 0, 0, 0, 0)) == pytest.approx(LAYERS * (1.0 + 0.3))
    assert ms(stage.piece(((8, 1),), 0, 0, 0, 0)) == pytest.approx(LAYERS * (1.0 + 0.4))
    assert ms(stage.piece(((8, 1), (8, 64)), 0, 0, 0, 0)) == pytest.approx(LAYERS * (2.0 + 1.1 * 0.6))  # 8 sqrt(2) = 11


def test_a_mixed_batch_adds_both(stage):
    assert ms(stage.piece(((8, 0),), 1, 63, 0, 0)) == pytest.approx(LAYERS * (2.0 + 0.5 + 0.3))


def test_pieces_keep_their_promise(stage):
    check_piece(stage, (), [3, 9], 200)
    check_piece(stage, ((8, 0),), [3, 9], 5)


def test_a_key_that_no_table_has_is_counted(stage):
    known, unknown = stage.piece(((8, 0),), 0, 0, 0, 0), stage.piece(((9, 0),), 0, 0, 0, 0)
    assert known[3] == 0 and unknown[3] == pytest.approx(LAYERS * 0.3e-3 * TICKS_PER_SECOND, abs=1)


def write(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()))
    return path


def test_all_reduces_count_twice_with_their_launches(tmp_path):
    cost = read_cost(
        LAYERS,
        write(tmp_path / "t.csv.gz", "num_tokens,mlp,all_reduce\n8,1.0,0.5\n16,2.0,0.5\n"),
        write(tmp_path / "d.csv.gz", "batch_size,avg_kv_rounded64,ms\n1,64,0.5\n1,128,0.6\n"),
        write(tmp_path / "p.csv.gz", "sum_kv_rounded64,eff_chunk,ms\n0,8,0.3\n0,9,0.3\n"),
    )
    assert ms(cost.stages[0].piece((), 1, 10, 0, 0)) == pytest.approx(LAYERS * (1.0 + 2 * 0.52 + 0.5))
    write(tmp_path / "d.csv.gz", "batch_size,avg_kv_rounded64,ms\n1,64,0.5\n1,64,0.6\n")
    with pytest.raises(InputError, match="two rows"):
        read_cost(LAYERS, *(tmp_path / f"{name}.csv.gz" for name in "tdp"))


# -- the reader --------------------------------------------------------------------------------------------------

OPERATORS = (
    "emb", "input_layernorm", "add", "attn_pre_proj", "attn_rope", "attn_post_proj", "post_attention_layernorm",
    "mlp_up_proj", "mlp_act", "mlp_down_proj",
)  # fmt: skip


def profile(root: Path) -> Path:
    """A model's folder in the layout of Vidur's repository; every operator takes 0.01 ms more than the one before."""
    folder = root / "compute" / "a100" / "example" / "Llama-2-7b-hf"
    network = root / "network" / "a100_dgx"
    folder.mkdir(parents=True)
    network.mkdir(parents=True)
    times = [f"{0.01 * (i + 1):.2f}" for i in range(len(OPERATORS))]
    header = ["num_tokens", "num_tensor_parallel_workers", *(f"time_stats.{name}.median" for name in OPERATORS)]
    rows = [[str(tokens), "1", *times] for tokens in (1, 64, 64, 2048)]
    (folder / "mlp.csv").write_text("\n".join(map(",".join, [header, *rows])))
    keys = (
        "n_embd,n_q_head,n_kv_head,num_tensor_parallel_workers,batch_size,prefill_chunk_size,kv_cache_size,is_prefill"
    )
    prompts = [
        f"4096,32,32,1,1,{chunk},{kv},True,{0.1 + chunk / 1e4 + kv / 1e4},0" for chunk in (64, 512) for kv in (0, 1024)
    ]
    decodes = [f"4096,32,32,1,{n},0,{kv},False,0,{n * kv / 1e5}" for n in (1, 64) for kv in (64, 1024)]
    (folder / "attention.csv").write_text(
        "\n".join([f"{keys},time_stats.attn_prefill.median,time_stats.attn_decode.median", *prompts, *decodes])
    )
    links = [f"{ranks},{inside},{size},{size / 1e7}" for ranks, inside in ((2, 2), (2, 1)) for size in (2048, 4096)]
    (network / "all_reduce.csv").write_text(
        "\n".join(["num_workers,devices_per_node,size,time_stats.all_reduce.median", *links])
    )
    return folder


def test_a_profile_becomes_tables(tmp_path):
    tables = vidur.read(profile(tmp_path))
    assert tables.provenance.hardware == "a100-80gb"
    norm = tables.find("layer", operator="norm", tp=1.0)
    np.testing.assert_allclose(norm.values, 0.05e-3)  # its own 0.02 ms and 0.03 ms to add the residual
    assert len(norm) == 3  # 64 tokens were measured twice
    assert len(tables.get("prefill_attention")) == len(tables.get("decode_attention")) == 4
    np.testing.assert_allclose(tables.get("collective").columns["ranks"], 2)
    assert len(tables.get("collective")) == 2  # within one node
    cost = MeasuredCost(tables, find_model("llama-2-7b"), find_hardware("a100-80gb"), Parallelism())
    origins = cost.times.origins(cost.operators)
    assert origins["qkv_proj"] == origins["decode_attention"] == origins["prefill_attention"] == "measured"
    assert origins["lm_head"] == origins["sampler"] == "fallback"
    alone, both = (cost.stages[0].piece(chunks, 0, 0, 0, 0)[0] for chunks in (((64, 0),), ((64, 0), (64, 0))))
    assert both > alone  # prompts were measured one at a time: two of them take longer than one


def test_a_profile_with_a_missing_column_is_refused(tmp_path):
    folder = profile(tmp_path)
    text = (folder / "mlp.csv").read_text()
    (folder / "mlp.csv").write_text(text.replace("attn_rope.median", "attn_ropes.median"))
    with pytest.raises(InputError, match="attn_rope"):
        vidur.read(folder)


def test_vidurs_own_profiles_are_read():
    data = os.environ.get("SERVECAST_DATA")
    if not data or not (Path(data) / "vidur").is_dir():
        pytest.skip("SERVECAST_DATA does not name a folder with vidur/")
    for folder in sorted((Path(data) / "vidur" / "profiling" / "compute").glob("*/*/Llama-2*")):
        tables = vidur.read(folder)
        assert {"layer", "collective"} <= set(tables.kinds) and tables.provenance.hardware
