"""LLMServingSim's layer profiles: each layer finds its operator, and what is not declared is not read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from servecast.configs.catalog import find_hardware, find_model
from servecast.configs.model import Parallelism
from servecast.costmodels.base import TICKS_PER_SECOND, check_piece
from servecast.costmodels.launch import Launch
from servecast.costmodels.readers import llmservingsim
from servecast.costmodels.readers.load import read_tables
from servecast.costmodels.tablecost import MeasuredCost
from servecast.costmodels.tablefile import load_tables, save_tables
from servecast.errors import InputError

LAYERS = 4
WHOLE_TICKS = 1e-4  # of a microbenchmark of 300 us: a slope is a whole number of ticks a token
# One bucket of every axis below the profile's sizes, with the edges of the published profiles.
AXES = {
    "n_bins": [0, 32, 64], "n_labels": ["n<=32", "n<=64"],
    "skew_rate_bins": [-0.01, 0.4, 1.01], "skew_rate_labels": ["sr<=40%", "sr>40%"],
    "kv_big_bins": [0, 1024, 4096], "kv_big_labels": ["kvB<=1k", "kvB<=4k"],
    "kp_bins": [-1, 0, 4096], "kp_labels": ["kp=0", "kp<=4k"],
}  # fmt: skip
DECLARED = {"skew_fit": {"enabled": True, "bucket_axes": AXES, "per_tp": {1: {"alpha_default": 0.05}}}}
FIT = "pc,n_label,skew_rate_label,kv_big_label,kp_label,alpha,n_samples\n" + "\n".join(
    f"0,n<=32,{skew},{longest},kp=0,{alpha},4"
    for skew in ("sr<=40%", "sr>40%")
    for longest, alpha in (("kvB<=1k", 0.2), ("kvB<=4k", 0.4))
)


FIT += "\n0,n<=64,sr>40%,kvB<=1k,kp=0,0.3,4"


def cost(folder: Path, launch: Launch | None = None) -> MeasuredCost:
    model = find_model(str(folder / "model.json"))
    return MeasuredCost(llmservingsim.read(folder), model, find_hardware("rtx-4090"), Parallelism(), launch=launch)


def us(ticks: int) -> float:
    return ticks / TICKS_PER_SECOND * 1e6


def rows_us(profile, tokens, sequences):
    """What everything but attention takes, added up by hand from the formulas of the profile."""
    inside = [name for name in profile.layers if name not in ("embedding", "final_layernorm")]
    layer = sum(profile.layer_us(name, tokens) for name in [*inside, "layernorm"])  # two norms, profiled as one
    once = profile.layer_us("embedding", tokens) + profile.layer_us("final_layernorm", tokens)
    return LAYERS * layer + once + sum(profile.head_us(name, sequences) for name in ("lm_head", "sampler"))


def test_an_iteration_is_the_sum_of_its_profiled_layers(layer_profile):
    stage = cost(layer_profile()).stages[0]
    attention = layer_profile.attention_us
    decodes = stage.piece((), 16, 16 * 700, 700, 700)[0]
    assert us(decodes) == pytest.approx(
        rows_us(layer_profile, 16, 16) + LAYERS * attention(0, 0, 16, 700), rel=WHOLE_TICKS
    )
    prompt = stage.piece(((128, 256),), 0, 0, 0, 0)[0]
    assert us(prompt) == pytest.approx(
        rows_us(layer_profile, 128, 1) + LAYERS * attention(128, 256, 0, 0), rel=WHOLE_TICKS
    )
    mixed = stage.piece(((113, 256),), 15, 15 * 700, 700, 700)[0]
    assert us(mixed) == pytest.approx(
        rows_us(layer_profile, 128, 16) + LAYERS * attention(113, 256, 15, 700), rel=WHOLE_TICKS
    )


def test_experts_were_profiled_as_one_block_with_their_router(layer_profile):
    """A token wakes two of eight experts; sixteen tokens are expected to wake nearly all of them."""
    experts = {"model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64}

    def block_us(tokens, active):
        return 5.0 + 0.5 * active + 0.05 * tokens

    rows = [f"{tokens},{active},{block_us(tokens, active)}" for active in (1, 2, 4, 8) for tokens in (1, 16, 512)]
    folder = layer_profile({}, {"moe.csv": "\n".join(["tokens,activated_experts,time_us", *rows])}, experts)
    stage = cost(folder).stages[0]
    dense = ("gate_up_proj", "act_fn", "down_proj")
    for decodes, woken in ((1, 2.0), (16, 8 * (1 - 0.75**16))):
        mlp = sum(layer_profile.layer_us(name, decodes) for name in dense)
        around = rows_us(layer_profile, decodes, decodes) - LAYERS * mlp
        expected = around + LAYERS * (block_us(decodes, woken) + layer_profile.attention_us(0, 0, decodes, 256))
        assert us(stage.piece((), decodes, 256 * decodes, 256, 256)[0]) == pytest.approx(expected, rel=WHOLE_TICKS)


def test_pieces_keep_their_promise(layer_profile):
    stage = cost(layer_profile({**DECLARED}, {"skew_fit.csv.gz": FIT})).stages[0]
    check_piece(stage, (), [300, 310, 900, 1000], 200)  # over the edge of a bucket
    check_piece(stage, ((64, 0),), [300, 310], 50)


def test_the_profile_of_a_run_is_found_and_survives_our_own_format(layer_profile, tmp_path):
    folder = layer_profile()
    tables = read_tables(folder / "profile")
    assert tables.provenance.hardware == "rtx-4090" and tables.provenance.model.heads == 8
    save_tables(tables, tmp_path / "tables")
    assert load_tables(tmp_path / "tables").describe() == tables.describe()


def test_a_layer_without_an_operator_of_its_own_adds_to_its_neighbour(layer_profile):
    """Norms of queries and keys (Qwen 3) belong to the rotary embedding, the nearest operator that we have."""
    plain = layer_profile()
    dense = (plain / "profile" / "tp1" / "dense.csv").read_text()
    extra = "\n".join(f"qk_norm,{tokens},1.5" for tokens in (1, 16))
    tables = [llmservingsim.read(folder) for folder in (plain, layer_profile({}, {"dense.csv": f"{dense}\n{extra}"}))]
    alone, both = (t.find("layer", operator="rotary_and_cache", tokens=16.0).values[0] for t in tables)
    assert both - alone == pytest.approx(1.5e-6)


def test_products_are_computed_in_whole_tiles(layer_profile):
    """Sizes were measured 16 apart: 17 rows of a product take as long as 32, of a norm hardly longer than 16."""
    model = cost(layer_profile())
    operators = {operator.name: operator for operator in model.operators[0].layers[0].rows}
    product, norm = (lambda rows, name=name: model.times.rows(operators[name], rows)[0] for name in ("o_proj", "norm"))
    assert product(17) == product(32) > product(16)
    assert norm(16) < norm(17) < norm(32)
    assert norm(17) - norm(16) == pytest.approx((norm(32) - norm(16)) / 16)


def test_waits_come_on_top_of_kernels(layer_profile):
    folder = layer_profile()
    bare = cost(folder).stages[0]
    waiting = cost(folder, Launch(gap_seconds_per_kernel=1e-6, gap_seconds_per_sequence=2e-6)).stages[0]
    kernels = 2 + 2 + LAYERS * 9  # embedding and final norm; head and sampler; eight operators and attention a layer
    decodes = ((), 8, 8 * 500, 500, 500)
    assert us(waiting.piece(*decodes)[0] - bare.piece(*decodes)[0]) == pytest.approx(8 * 2, rel=1e-3)
    mixed = (((64, 0), (32, 0)), 8, 8 * 500, 500, 500)
    assert us(waiting.piece(*mixed)[0] - bare.piece(*mixed)[0]) == pytest.approx(kernels + 10 * 2, rel=1e-3)


@pytest.mark.parametrize("declared", [False, True])
def test_uneven_decodes_are_corrected_where_the_profile_declares_it(layer_profile, declared):
    folder = layer_profile(DECLARED if declared else {}, {"skew_fit.csv.gz": FIT})
    stage = cost(folder).stages[0]
    even = us(stage.piece((), 8, 8 * 500, 500, 500)[0])
    uneven = us(stage.piece((), 8, 8 * 500, 300, 1024)[0])
    further = LAYERS * (layer_profile.attention_us(0, 0, 8, 1024) - layer_profile.attention_us(0, 0, 8, 500))
    assert uneven - even == pytest.approx(0.2 * further if declared else 0, rel=1e-3)


def test_the_correction_does_not_jump_at_a_buckets_edge(layer_profile):
    """Alpha is 0.2 up to 1,024 tokens and 0.4 at 4,096: just beyond the edge it is still near 0.2."""
    uneven = cost(layer_profile(DECLARED, {"skew_fit.csv.gz": FIT})).times.uneven
    at = [uneven.alpha(0, 8, 8 * 500, 300, longest, 0)[0] for longest in (1000, 1024, 1100, 2048, 4096, 8000)]
    assert at == sorted(at)
    assert at[1] == 0.2 and at[2] < 0.23 and at[3] == pytest.approx(0.3) and at[4] == at[5] == 0.4


def test_a_bucket_that_was_not_measured_takes_the_default(layer_profile):
    uneven = cost(layer_profile(DECLARED, {"skew_fit.csv.gz": FIT})).times.uneven
    assert uneven.alpha(0, 60, 60 * 500, 300, 1000, 0)[0] == 0.05


WRONG = {
    "an unknown layer": ({"dense.csv": "layer,tokens,time_us\nqkv_prjo,1,2\nqkv_prjo,2,3"}, "qkv_proj"),
    "a missing column": (
        {"attention.csv": "prefill_chunk,kv_prefil,n_decode,kv_decode,time_us\n0,0,1,16,2"},
        "kv_prefill",
    ),
    "no time": ({"per_sequence.csv": "layer,sequences,time_us\nlm_head,1,0\nlm_head,2,1"}, "above 0"),
    "no rows": ({"dense.csv": "layer,tokens,time_us\n"}, "no rows"),
    "an unknown bucket": ({"skew_fit.csv": FIT.replace("n<=32", "n<=31")}, "n<=32"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_malformed_profile_is_refused_with_what_is_wrong(layer_profile, case):
    files, word = WRONG[case]
    with pytest.raises(InputError) as error:
        llmservingsim.read(layer_profile(DECLARED, files))
    assert word in str(error.value) and "profile" in str(error.value)


def test_a_profile_without_attention_is_refused(layer_profile):
    folder = layer_profile()
    (folder / "profile" / "tp1" / "attention.csv").unlink()
    assert not llmservingsim.fits(folder)
    with pytest.raises(InputError, match=r"no attention\.csv"):
        llmservingsim.read(folder)


def test_a_model_that_was_not_measured_is_refused(layer_profile):
    tables = llmservingsim.read(layer_profile())
    with pytest.raises(InputError, match="hidden_size"):
        MeasuredCost(tables, find_model("llama-3.1-8b"), find_hardware("rtx-4090"), Parallelism())


def test_the_published_profiles_are_read():
    data = os.environ.get("SERVECAST_DATA")
    if not data or not (Path(data) / "vllm-runs").is_dir():
        pytest.skip("SERVECAST_DATA does not name a folder with vllm-runs/")
    for folder in sorted((Path(data) / "vllm-runs").iterdir()):
        tables = llmservingsim.read(folder)
        assert {"layer", "sequence", "mixed_attention"} <= set(tables.kinds)
        assert tables.provenance.hardware is not None
