"""Kernel tables of other projects: aiconfigurator's in its layouts, Vidur's element-wise kernels."""

from __future__ import annotations

import sys
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from servecast.configs.catalog import find_hardware
from servecast.costmodels.commands import read_source
from servecast.costmodels.curve import Curve
from servecast.costmodels.grid import Grid
from servecast.costmodels.readers import aiconfigurator, vidur_elementwise
from servecast.costmodels.table import TableSet
from servecast.costmodels.tablecheck import check_tables
from servecast.errors import InputError

COMMON = "framework,version,device,op_name,kernel_source"
HEADS = "num_heads,num_key_value_heads,head_dim,beam_width,attn_dtype,kv_cache_dtype"
EXPERTS = "num_tokens,hidden_size,inter_size,topk,num_experts,moe_tp_size,moe_ep_size,distribution"
FILES = {
    "gemm": f"""{COMMON},gemm_dtype,m,n,k,latency
F,V,G,gemm,fast,bfloat16,1,64,64,0.002
F,V,G,gemm,slow,bfloat16,1,64,64,0.005
F,V,G,gemm,fast,fp8_block,16,64,64,0.003
""",
    "context_attention": f"""{COMMON},batch_size,isl,{HEADS},step,latency
F,V,G,context_attention,k,2,128,32,8,128,1,bfloat16,fp8,0,0.02
F,V,G,context_attention,k,2,128,16,0,128,1,bfloat16,bfloat16,0,0.03
""",
    "generation_attention": f"""{COMMON},batch_size,isl,{HEADS},step,latency
F,V,G,generation_attention,k,4,1,32,8,128,1,bfloat16,bfloat16,1023,0.04
""",
    "moe": f"""{COMMON},moe_dtype,{EXPERTS},latency
F,V,G,moe,k,bfloat16,16,2048,768,8,128,1,4,power_law_1.01,0.05
""",
    "custom_allreduce": f"""{COMMON},allreduce_dtype,num_gpus,message_size,latency,backend
F,V,G,ar,k,bfloat16,2,1024,0.006,vllm_graph
""",
    "nccl": f"""{COMMON},nccl_dtype,num_gpus,message_size,latency
F,V,G,alltoall,NCCL,half,8,4096,0.01
F,V,G,all_reduce,NCCL,int8,8,4096,0.02
""",
}  # fmt: skip


def write(root: Path, layout: str, gpu: str = "h100_sxm") -> Path:
    """The files as the repository lays them out now or did before, or as one flat folder a GPU."""
    for operator, text in FILES.items():
        engine, version = ("nccl", "2.27.3") if operator == "nccl" else ("vllm", "0.11.0")
        path = {
            "now": Path("data", gpu, "family", engine, version, f"{operator}_perf.csv"),
            "before": Path("data", gpu, engine, version, f"{operator}_perf.txt"),
            "flat": Path(gpu, f"nccl.{version}.csv" if operator == "nccl" else f"{operator}.{engine}{version}.csv"),
        }[layout]
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


@pytest.mark.parametrize("layout", ["now", "before", "flat"])
def test_every_operator_in_our_units(tmp_path: Path, layout: str) -> None:
    assert aiconfigurator.fits(write(tmp_path, layout)) and not aiconfigurator.fits(tmp_path / "elsewhere")
    tables = aiconfigurator.read(tmp_path)
    about = tables.provenance
    assert (about.gpu, about.hardware, about.engine, about.software) == (
        "h100_sxm",
        "h100",
        "vllm 0.11.0",
        {"nccl": "2.27.3"},
    )

    def only(kind: str, **labels: object) -> tuple[dict[str, float], float]:
        found = tables.find(kind, **labels)
        assert found is not None and len(found) == 1
        return {axis: float(found.columns[axis][0]) for axis in found.columns if axis not in labels}, found.values[0]

    point, time = only("gemm", dtype="bf16")
    assert time == pytest.approx(2e-6) and point == {"n": 64, "k": 64, "m": 1}  # the faster kernel, said in a note
    assert about.notes == ("1 slower rows of a kernel with the same keys left out",)
    assert only("gemm", dtype="fp8_block")[1] == pytest.approx(3e-6)
    point, time = only("prefill_attention", dtype="bf16", kv_dtype="fp8")
    assert time == pytest.approx(2e-5) and (point["batch"], point["chunk"], point["window"]) == (2, 128, 0)
    point, _ = only("prefill_attention", dtype="bf16", kv_dtype="bf16")
    assert point["kv_heads"] == point["heads"] == 16  # 0 stands for as many KV heads as heads
    point, time = only("decode_attention", dtype="bf16", kv_dtype="bf16")
    assert time == pytest.approx(4e-5) and point["context"] == 1023  # one token and 1,023 steps: 1,024 after it
    point, time = only("moe", dtype="bf16", routing="power_law_1.01")
    assert (point["ep"], point["tokens"], time) == (4, 16, pytest.approx(5e-5))
    point, time = only("collective", backend="custom_graph", op="all_reduce")
    assert (point["ranks"], point["bytes"], time) == (2, 2048, pytest.approx(6e-6))  # 1,024 numbers of 2 bytes
    assert only("collective", backend="nccl", op="all_to_all")[0]["bytes"] == 8192
    assert only("collective", backend="nccl", op="all_reduce")[0]["bytes"] == 4096


def test_which_of_several(tmp_path: Path) -> None:
    write(write(tmp_path, "now"), "now", "a100_sxm")
    with pytest.raises(InputError, match="tables of a100_sxm, h100_sxm; expected --gpu"):
        aiconfigurator.read(tmp_path)
    with pytest.raises(InputError, match="did you mean 'h100_sxm'"):
        aiconfigurator.read(tmp_path, gpu="h100_pcie")
    assert aiconfigurator.read(tmp_path, gpu="a100-80gb").provenance.gpu == "a100_sxm"  # our card's name will do
    newer = tmp_path / "data/h100_sxm/family/vllm/0.9.2"
    newer.mkdir()
    (newer / "gemm_perf.csv").write_text(FILES["gemm"].replace("0.002", "0.001"))

    def fastest(**which: str) -> float:
        found = aiconfigurator.read(tmp_path, gpu="h100", **which).find("gemm", dtype="bf16")
        assert found is not None
        return float(found.values[0])

    assert fastest() == pytest.approx(2e-6)  # 0.11 comes after 0.9
    assert fastest(version="0.9.2") == pytest.approx(1e-6)
    with pytest.raises(InputError, match="--version"):
        aiconfigurator.read(tmp_path, gpu="h100", version="0.9.3")


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    write(tmp_path, "flat")
    path = tmp_path / "h100_sxm/gemm.vllm0.11.0.csv"
    path.write_text(FILES["gemm"].replace(",latency", ",delay"))
    with pytest.raises(InputError, match=r"gemm.vllm0.11.0.csv: no column 'latency'"):
        aiconfigurator.read(tmp_path)
    path.write_text(FILES["gemm"].replace("0.002", "-0.002"))
    with pytest.raises(InputError, match=r"time_ms, row 1: -0.002; expected above 0"):
        aiconfigurator.read(tmp_path)


def test_the_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution called aiconfigurator, as pip leaves it, is found through its metadata."""
    with pytest.raises(InputError, match="not installed with its tables"):
        read_source("aiconfigurator")
    systems = write(tmp_path / "aiconfigurator/systems", "now")
    info = tmp_path / "aiconfigurator-0.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: aiconfigurator\nVersion: 0.9\n")
    files = [path.relative_to(tmp_path).as_posix() for path in systems.rglob("*.csv")]
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in files))
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert next(iter(Distribution.discover(name="aiconfigurator"))).version == "0.9"
    assert read_source("aiconfigurator").provenance.gpu == "h100_sxm"


MLP = """n_head,n_kv_head,n_embd,n_expanded_embd,num_tokens,num_tensor_parallel_workers,{times}
32,8,4096,14336,100,1,0.003,0.002,0.004,0.001
32,8,4096,14336,200,1,0.006,0.004,0.008,0.0
32,8,4096,14336,200,2,0.006,0.002,0.006,0.003
""".format(times=",".join(f"time_stats.{k}.median" for k in ("input_layernorm", "attn_rope", "mlp_act", "emb")))


def test_element_wise_kernels_by_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "compute/h100/org/model"
    folder.mkdir(parents=True)
    (folder / "mlp.csv").write_text(MLP)
    assert vidur_elementwise.fits(tmp_path)
    tables = vidur_elementwise.read(tmp_path)
    norm = tables.grid("elementwise", operator="norm")
    assert isinstance(norm, Curve)
    row = 4 * 4096 * 2  # residual and input read, both written, 2 bytes each
    assert (norm.at(100 * row), norm.at(200 * row)) == (pytest.approx(3e-6), pytest.approx(6e-6))
    activation = tables.find("elementwise", operator="activation")
    assert activation is not None
    assert sorted(activation.values.tolist()) == pytest.approx([5e-6, 8e-6])  # 100 rows whole = 200 rows cut in two
    embedding = tables.find("elementwise", operator="embedding")
    assert embedding is not None and len(embedding) == 2  # the one timed at 0 is left out


# -- the published tables ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def h200(kernel_db: Path) -> TableSet:
    return aiconfigurator.read(kernel_db, gpu="h200")


def test_published_sanity_values(h200: TableSet, kernel_db: Path) -> None:
    """The figures that the copy's README computes from the tables: latencies to their last digit, and the power."""
    for dtype, milliseconds in (("bf16", 1.640), ("fp8", 0.835)):
        gemm = h200.grid("gemm", dtype=dtype)
        assert isinstance(gemm, Grid) and gemm.at(8192, 8192, 8192)[0] == pytest.approx(milliseconds / 1e3, abs=0.5e-6)
    decode = h200.find(
        "decode_attention", kv_dtype="bf16", heads=32, kv_heads=8, head_dim=128, window=0, batch=64, context=4095
    )
    assert decode is not None and decode.values[0] == pytest.approx(0.271e-3, abs=0.5e-6)
    reduce = h200.find("collective", op="all_reduce", backend="nccl", ranks=8, bytes=2**29)
    assert reduce is not None and reduce.values[0] == pytest.approx(2.04e-3, abs=5e-6)
    watts = aiconfigurator.read(kernel_db, gpu="h200", power=True).find("gemm", dtype="bf16", m=8192, n=8192, k=8192)
    assert watts is not None and watts.watts is not None and watts.watts[0] == pytest.approx(691, abs=0.5)


def test_published_tables_pass_the_check(h200: TableSet) -> None:
    """No impossible time, and neighbours predict a point: medians below 3 % for the products and attention kernels that
    a deployment runs (block-scaled fp8 products come from three kernels and jump between them)."""
    found = check_tables(h200, find_hardware("h200"))
    assert not found["errors"]
    medians = {(row.kind, row.dtype): row.median for row in found["interpolation"] if row.axis == "mean"}
    for key in (("gemm", "bf16"), ("gemm", "fp8"), ("decode_attention", "bf16"), ("prefill_attention", "bf16")):
        assert medians[key] < 0.03, key
