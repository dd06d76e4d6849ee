"""The check of table sets, and the commands around them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from servecast.cli import main
from servecast.configs.catalog import find_hardware
from servecast.costmodels.table import KINDS, Table, TableSet, make_table
from servecast.costmodels.tablecheck import bounds, check_tables, interpolation
from servecast.costmodels.tablefile import save_tables

Tables = Callable[..., TableSet]
H100 = find_hardware("h100")


def scaled(table: Table, factor: float) -> Table:
    return dataclasses.replace(table, values=table.values * factor)


def test_formulas_are_possible_and_smooth(tables: Tables) -> None:
    """Kernels linear in their sizes are predicted exactly, left out; the quadratic prompts nearly."""
    found = check_tables(tables(), H100)
    assert not found["errors"]
    for row in found["interpolation"]:
        if row.points and row.kind != "prefill_attention":
            assert row.p95 < 1e-9, row
        elif row.points:
            assert row.median < 0.35, row  # four points a decade apart, with a constant part


@pytest.mark.parametrize("factor", [1e3, 1e-3])
@pytest.mark.parametrize("kind", ["gemm", "prefill_attention", "decode_attention", "collective", "elementwise"])
def test_a_wrong_unit_is_found(tables: Tables, kind: str, factor: float) -> None:
    """Milliseconds for microseconds, either way, in any kind."""
    table = tables().get(kind)
    assert table is not None and not bounds(table, H100)
    [finding] = bounds(scaled(table, factor), H100)
    assert kind in finding and "a wrong unit?" in finding


def test_one_impossible_time_is_named(tables: Tables) -> None:
    table = tables().get("gemm")
    assert table is not None
    largest = int(np.argmax(table.values))
    table.values[largest] /= 20
    try:
        [finding] = bounds(table, H100)
        assert "1 of" in finding and "n = 262144" in finding and "m = 4096" in finding
    finally:
        table.values[largest] *= 20


def test_one_outlier_is_an_error_of_interpolation(tables: Tables) -> None:
    table = tables().get("decode_attention")
    assert table is not None
    values = table.values.copy()
    values[(table.columns["batch"] == 8) & (table.columns["context"] == 128)] *= 2
    worse = {row.axis: row for row in interpolation(dataclasses.replace(table, values=values))}
    assert set(worse) == {"batch", "context", "mean"} and worse["mean"].p95 > 0.3


def test_doubtful_keys_are_named(tables: Tables) -> None:
    columns = {"op": np.array(["all_reduce"] * 3), "ranks": np.array([2, 2, 4]), "backend": np.array(["nccl"] * 3)}
    twice = make_table("collective", {**columns, "bytes": np.array([8, 8, 9]), "time_us": np.array([1, 2, 3])}, "t")
    about = tables().provenance
    found = check_tables(TableSet(about, {"collective": twice}, "t"), H100)
    assert any("1 keys occur twice, the first op = all_reduce, ranks = 2" in error for error in found["errors"])
    alone = make_table("collective", {**columns, "bytes": np.array([8, 16, 8]), "time_us": np.array([1, 2, 3])}, "t")
    found = check_tables(TableSet(about, {"collective": alone}, "t"), H100)
    assert found["notes"] == ["collective: 1 of 2 lines along bytes have one point: constant there"]


# -- commands ----------------------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([str(word) for word in words])
    return code, *capsys.readouterr()


def test_import_describe_check(tables: Tables, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = tables(leave_out=("gemm",)), tables(leave_out=tuple(set(KINDS) - {"gemm"}))
    save_tables(one, tmp_path / "one")
    save_tables(other, tmp_path / "other.zip")
    code, out, _ = run(
        capsys, "costmodel", "import", tmp_path / "one", tmp_path / "other.zip", "--out", tmp_path / "both"
    )
    assert code == 0 and "rows of" in out
    code, out, _ = run(capsys, "costmodel", "describe", tmp_path / "both", "--json")
    described = json.loads(out)
    assert code == 0 and set(described["kinds"]) == set(tables().kinds)
    assert described["kinds"]["gemm"]["labels"] == {"dtype": ["bf16"]}
    code, out, _ = run(capsys, "costmodel", "describe", tmp_path / "both")
    assert code == 0 and "Formula 1" in out and "these tests" in out
    check = ["costmodel", "check", tmp_path / "both", "--model", "llama-3.1-8b"]
    code, out, _ = run(capsys, *check)
    assert code == 0 and "fallback  sampler" in out and "derived   prefill_attention" in out
    code, out, _ = run(capsys, *check, "--json")
    assert code == 0 and json.loads(out)["model"]["operators"]["qkv_proj"] == "measured"
    table = tables().get("gemm")
    assert table is not None
    wrong = TableSet(one.provenance, {"gemm": scaled(table, 1e-3)}, "t")
    save_tables(wrong, tmp_path / "wrong")
    code, out, _ = run(capsys, "costmodel", "check", tmp_path / "wrong")
    assert code == 1 and "wrong: gemm" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("import {0}/none --out {0}/new", "no such file or folder"),
        ("import {0} --out {0}/new", "no tables in a known format; expected a source for one of aiconfigurator"),
        ("describe {0}", "no table.yaml in it; expected a table set; `servecast costmodel import` makes one"),
        ("check {0}/notes.txt", "neither a folder nor a zip file"),
    ],
)
def test_bad_sources(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, says: str) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    code, _, err = run(capsys, "costmodel", *words.format(tmp_path).split())
    assert code == 2 and says in err and "Traceback" not in err
    assert not (tmp_path / "new").exists()
