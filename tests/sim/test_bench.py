"""Published closed-loop measurements: reading them, replaying them, comparing and fitting."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from servecast.cli import main
from servecast.configs.plan import plan_from
from servecast.costmodels.base import check_piece
from servecast.costmodels.commands import read_source
from servecast.costmodels.tablefile import save_tables
from servecast.errors import InputError
from servecast.sim.deploy import deploy
from servecast.sim.published import fit as bench_fit
from servecast.sim.published.compare import compare, errors, held_back, read_others
from servecast.sim.published.predict import Constants, Prediction, _FreePrompts, predict
from servecast.sim.published.rows import (  # fmt: skip
    FRONT_END,
    GENAI_PERF,
    INFERENCEMAX,
    BenchRow,
    Workers,
    engine_of,
    left_out,
    plan_of,
    protocol_of,
    read_rows,
    requests_of,
)

HEAD = (
    "id,silicon_data_source,backend,backend_version,model_path,precision,mode,isl,osl,gemm_quant_mode,moe_quant_mode,"
    "tp_size,pp_size,attention_dp_size,moe_tp_size,moe_ep_size,prefill_num_workers,prefill_tp_size,decode_num_workers,"
    "decode_tp_size,silicon_ttft_ms,silicon_tpot_ms,concurrency,exclude\n"
)
ROWS = HEAD + (
    "a,source_file=x,vllm,0.12.0,Qwen/Qwen3-32B,,agg,1024,128,,,2.0,1.0,,1.0,1.0,,,,,100,10,8.0,\n"
    "b,source_file=x,trtllm,1.0.0rc3,Qwen/Qwen3-32B,fp8,agg,2048,256,fp8,fp8,1,1,,1,1,,,,,200,20,16,\n"
    "c,source_file=x,vllm,0.12.0,Qwen/Qwen3-32B,,agg,1024,128,,,2,1,,1,1,,,,,100,10,8,implausible\n"
    "d,db-dump/x,trtllm,0.8.1,deepseek-ai/DeepSeek-V3,fp8,disagg,1024,64,fp8,fp8,,,,,,1,8,3,4,300,30,6,\n"
)
ROW = BenchRow("r", "vllm", "0.12.0", "llama-3.1-8b", "bf16", 300, 40, 4, Workers(), None, "source_file=x", 0.05, 0.006)


def table(folder: Path, text: str = ROWS) -> Path:
    path = folder / "rows.csv.gz"
    path.write_bytes(gzip.compress(text.encode()))
    return path


def test_rows_as_they_were_measured(tmp_path: Path) -> None:
    a, b, d = read_rows(table(tmp_path))  # c is excluded
    assert (a.users, a.workers, a.weights, a.ttft, a.tpot) == (8, Workers(1, 2), "bf16", 0.1, 0.01)
    assert (b.weights, b.decode) == ("fp8", None)
    assert d.workers == Workers(1, 8) and d.decode == Workers(3, 4)
    assert protocol_of(a) is GENAI_PERF and protocol_of(d) is INFERENCEMAX
    assert [engine_of(row) for row in (a, b, d)] == ["vllm-0.12", "trtllm-1.0", "trtllm-1.0"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("concurrency", "concurency", r"no column 'concurrency'.*did you mean 'concurency'"),
        (",100,10,8.0,", ",x,10,8.0,", r"rows.csv.gz:2: silicon_ttft_ms: 'x'; expected a number"),
        (",100,10,8.0,", ",100,-1,8.0,", r":2: silicon_tpot_ms: '-1'; expected a number, not negative"),
        (",100,10,8.0,", ",100,inf,8.0,", r":2: silicon_tpot_ms: 'inf'"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        read_rows(table(tmp_path, ROWS.replace(old, new, 1)))


def test_the_plan_of_a_row(tmp_path: Path) -> None:
    """The flags that the measuring tool's generator sets: budget, no eviction, FP8 cache of ModelOpt's checkpoints."""
    a, b, _ = read_rows(table(tmp_path))
    plan = plan_of(a, a.workers, "h100", "roofline")
    assert plan["model"] == "qwen3-32b" and plan["pools"][0]["max_num_batched_tokens"] == 1024 + 1500 + 8
    pool = plan_of(b, b.workers, "h100", "roofline")["pools"][0]
    assert (pool["kv_cache_dtype"], pool["quantization"], pool["enable_chunked_prefill"]) == ("fp8", "fp8", False)
    assert pool["kv"] == {"name": "no_evict", "max_new_tokens": 256}
    for row in (a, b):
        deploy(plan_from(plan_of(row, row.workers, "h100", "roofline")))  # it can start


def test_requests_of_a_row() -> None:
    """Ten a user; of one length, or drawn from 80 to 100 % of it; each reaches the engine after it was tokenised."""
    requests, think = requests_of(ROW)
    assert len(requests) == 40 and set(requests.prompt_tokens.tolist()) == {300}
    assert (think[:4] == 0).all() and think[4:] == pytest.approx(300 * FRONT_END)
    drawn, _ = requests_of(dataclasses.replace(ROW, users=64, origin="source_file=2026-03-25.csv"))
    assert drawn.prompt_tokens.min() >= 240 and drawn.prompt_tokens.max() == 300
    assert drawn.output_tokens.min() >= 32 and drawn.output_tokens.max() == 40
    assert drawn.prompt_tokens.mean() == pytest.approx(270, abs=5)  # 640 draws of width 60: 0.7 standard error
    again, _ = requests_of(dataclasses.replace(ROW, users=64, origin="source_file=2026-03-25.csv"))
    assert (again.prompt_tokens == drawn.prompt_tokens).all()


def test_what_cannot_be_replayed() -> None:
    assert left_out(ROW) is None
    shared = dataclasses.replace(ROW, origin="gtl_job_id=1", workers=Workers(1, 2))
    assert "how many workers shared the concurrency" in str(left_out(shared))
    assert left_out(dataclasses.replace(shared, workers=Workers(1, 8))) is None
    both = dataclasses.replace(ROW, workers=Workers(1, 4, expert_parallel_size=2, expert_tensor_parallel_size=2))
    assert "by tensor and by expert parallelism" in str(left_out(both))
    unknown = predict(dataclasses.replace(ROW, model="no-such-model"), "h100", "roofline", {})
    assert not unknown.covered and "no model is called" in str(unknown.reason)


def test_a_row_on_the_roofline_does_not_count() -> None:
    predicted = predict(ROW, "h100", "roofline", {})
    assert predicted.ttft > 0 and predicted.tpot > 0
    assert not predicted.covered and "falls back to the roofline" in str(predicted.reason)


def test_constants_change_the_prediction() -> None:
    """A millisecond more of host time in every iteration is a millisecond more between tokens."""
    base = predict(ROW, "h100", "roofline", {"vllm-0.12": {"host_seconds": 1e-3}})
    slow = predict(ROW, "h100", "roofline", {"vllm-0.12": {"host_seconds": 2e-3}})
    assert slow.tpot - base.tpot == pytest.approx(1e-3, rel=0.05)


def test_prefill_and_decode_apart() -> None:
    """More decode workers leave each a smaller batch; more prefill workers shorten the wait for a first token."""
    row = dataclasses.replace(ROW, isl=2000, osl=100, users=32, engine="trtllm", version="1", decode=Workers(1))
    one = predict(row, "h100", "roofline", {})
    decodes = predict(dataclasses.replace(row, decode=Workers(4)), "h100", "roofline", {})
    prefills = predict(dataclasses.replace(row, workers=Workers(4)), "h100", "roofline", {})
    assert decodes.tpot < one.tpot and prefills.ttft < one.ttft
    together = predict(dataclasses.replace(row, decode=None), "h100", "roofline", {})
    assert one.tpot < together.tpot  # no prompt interrupts the decodes


def test_free_prompts_keep_the_law_of_pieces() -> None:
    [deployment] = deploy(plan_from(plan_of(ROW, ROW.workers, "h100", "roofline")))
    [stage] = _FreePrompts(deployment.cost).stages
    check_piece(stage, ((100, 5),), [300, 400], iterations=50)
    assert stage.piece(((100, 5),), 2, 700, 0, 0) == stage.piece((), 2, 700, 0, 0)


def test_errors_and_halves(tmp_path: Path) -> None:
    rows = [dataclasses.replace(ROW, id=f"row {i}") for i in range(400)]
    held = [row for row in rows if held_back(row.id)]
    assert 160 < len(held) < 240  # a fair coin: four standard deviations are 40
    predictions = {row.id: Prediction(row.id, 0.06, 0.0054) for row in rows}
    predictions["row 0"] = Prediction("row 0", reason="no")
    found = compare("vllm", rows, predictions, {"row 1": (0.1, 0.006), "row 0": (1.0, 1.0)})
    assert (found.rows, found.covered) == (400, 399) and found.held is not None and found.held.rows <= len(held)
    assert (found.held.ttft, found.held.tpot) == (pytest.approx(0.2), pytest.approx(0.1))
    assert (found.held.ttft_bias, found.held.tpot_bias) == (pytest.approx(0.2), pytest.approx(-0.1))
    assert found.theirs_all is not None and found.theirs_all.rows == 1 and found.theirs_all.ttft == pytest.approx(1.0)
    assert errors([]) is None
    other = tmp_path / "other.csv"
    other.write_text("id,aic_predicted_ttft_ms,aic_predicted_tpot_ms\na,100,7\nb,,\n")
    assert read_others(other) == {"a": (0.1, 0.007)}
    other.write_text("id,ttft\na,1\n")
    with pytest.raises(InputError, match="no predictions"):
        read_others(other)


def test_a_fit_finds_the_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements made with 2 ms and 20 us give those back from a start of 1 ms and 40 us, although
    one in twenty is an outlier; the rows held back play no part."""

    def predictions(
        rows: list[BenchRow], hardware: str, cost: str, constants: Constants, processes: int
    ) -> list[Prediction]:
        host = constants["vllm-0.12"]
        return [
            Prediction(row.id, row.ttft, 5e-3 + host["host_seconds"] + row.users * host["host_seconds_per_sequence"])
            for row in rows
        ]

    monkeypatch.setattr(bench_fit, "predict_all", predictions)
    rows = []
    for i in range(200):
        users = (4, 16, 64, 256)[i % 4]
        tpot = (5e-3 + 2e-3 + users * 20e-6) * (2 if i % 20 == 0 else 1)
        row = dataclasses.replace(ROW, id=f"row {i}", users=users, tpot=tpot)
        rows.append(dataclasses.replace(row, tpot=1.0) if held_back(row.id) else row)
    found = bench_fit.fit("vllm-0.12", rows, "h100", "roofline", 1)
    assert found["host_seconds"] == pytest.approx(2e-3, rel=0.1)
    assert found["host_seconds_per_sequence"] == pytest.approx(20e-6, rel=0.1)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = HEAD + "a,source_file=x,vllm,0.12.0,llama-3.1-8b,,agg,256,16,,,1,1,,1,1,,,,,100,10,2,\n"
    words = ["validate-table", str(table(tmp_path, text)), "--cost", "roofline", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert "rows that do not count" in capsys.readouterr().out
    assert main([*words, "--min-coverage", "0.5", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["missed"] == ["0.0% of the rows covered, wanted 50.0%"]
    line = (tmp_path / "out" / "rows.csv").read_text().split("\n")[1]
    assert line.startswith("a,vllm,0.12.0,llama-3.1-8b,256,16,2,0.1,0.01,")
    assert main([*words, "--engine", "vlm"]) == 2
    assert "did you mean 'vllm'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def h100_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published kernel tables of SERVECAST_DATA in our format."""
    data = os.environ.get("SERVECAST_DATA", "")
    if not data or not Path(data, "kernel-db").is_dir():
        pytest.skip("SERVECAST_DATA does not name a folder with kernel-db/")
    pytest.importorskip("pyarrow", reason="the kernel tables are Parquet files")
    path = tmp_path_factory.mktemp("tables") / "h100"
    kernels = read_source(f"{data}/kernel-db", options={"gpu": "h100"})
    save_tables(kernels.joined(read_source(f"{data}/vidur", options={"gpu": "h100"})), path, parquet=True)
    return path


@pytest.fixture
def published(h100_tables: Path) -> Callable[[str], tuple[BenchRow, Prediction]]:
    rows = {row.id: row for row in read_rows(Path(os.environ["SERVECAST_DATA"], "kernel-db/silicon_h100.csv.gz"))}

    def one(row_id: str) -> tuple[BenchRow, Prediction]:
        return rows[row_id], predict(rows[row_id], "h100", str(h100_tables), {})

    return one


@pytest.mark.parametrize(
    "row_id",
    [
        "qwen_qwen3_32b_qwen_qwen3_32b_h100_sxm_vllm_agg_4096x128_c32_tp4_epnone_53",
        "qwen_qwen3_32b_qwen_qwen3_32b_h100_sxm_trtllm_agg_2048x256_c16_tp2_epnone_56",
        "qwen_qwen3_32b_qwen_qwen3_32b_h100_sxm_sglang_agg_2048x256_c16_tp2_epnone_36",
    ],
)
def test_published_measurements(published: Callable[[str], tuple[BenchRow, Prediction]], row_id: str) -> None:
    """One deployment an engine: within three times the medians that all are held to, 8 % of TPOT and 25 % of TTFT."""
    row, predicted = published(row_id)
    assert held_back(row_id)  # no constant was fitted on it
    assert predicted.covered, predicted.reason
    assert abs(predicted.tpot / row.tpot - 1) < 0.24 and abs(predicted.ttft / row.ttft - 1) < 0.75
    assert np.isclose(sum(predicted.shares.values()), 1)
