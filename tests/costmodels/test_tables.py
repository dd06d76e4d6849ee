"""The table format: what is written is read again, and what is wrong is named."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from servecast.costmodels.curve import Curve
from servecast.costmodels.grid import Grid, grid
from servecast.costmodels.table import KINDS, Provenance, TableSet, make_table
from servecast.costmodels.tablefile import load_tables, save_tables
from servecast.errors import InputError

Tables = Callable[..., TableSet]
MANIFEST = "format: 1\ngpu: G\nsource: s\nlicence: l\n"
GEMM = "dtype,n,k,m,time_us\nbf16,64,64,1,3\nbf16,64,64,16,4\n"


def folder(path: Path, **files: str) -> Path:
    path.mkdir(exist_ok=True)
    (path / "table.yaml").write_text(MANIFEST)
    for name, text in files.items():
        (path / f"{name}.csv").write_text(text)
    return path


@pytest.mark.parametrize(("name", "parquet"), [("t", False), ("t.zip", False), ("t", True), ("t.zip", True)])
def test_written_and_read_again(tables: Tables, tmp_path: Path, name: str, parquet: bool) -> None:
    if parquet:
        pytest.importorskip("pyarrow")
    before = tables(power=True)
    save_tables(before, tmp_path / name, parquet)
    after = load_tables(tmp_path / name)
    assert after.provenance == before.provenance and set(after.kinds) == set(before.kinds)
    for kind in before.kinds:
        one, other = before.get(kind), after.get(kind)
        assert one is not None and other is not None
        one = one.sorted()
        for column in KINDS[kind].keys:
            assert (one.columns[column] == other.columns[column]).all()
        np.testing.assert_allclose(other.values, one.values, rtol=1e-8)  # nine digits
        assert (one.watts is None) == (other.watts is None)
    save_tables(after, tmp_path / ("2" + name), parquet)
    if name.endswith(".zip") and not parquet:  # text has nine digits, so a second writing changes nothing
        assert (tmp_path / name).read_bytes() == (tmp_path / ("2" + name)).read_bytes()
    assert not list(tmp_path.glob("*.partial"))


def test_saving_over_something_else_is_refused(tables: Tables, tmp_path: Path) -> None:
    (tmp_path / "notes.zip").write_text("not a table set")
    with pytest.raises(InputError, match="exists and is no table set"):
        save_tables(tables(), tmp_path / "notes.zip")
    assert (tmp_path / "notes.zip").read_text() == "not a table set"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GEMM.replace("time_us", "time"), "value columns none.*expected one of time_s, time_ms, time_us"),
        (GEMM.replace("time_us", "time_us,power"), "2 cells|5 cells|6 cells|columns"),
        (GEMM.replace("dtype,n,k", "dtype,N,k"), "no column 'n'.*did you mean 'N'"),
        (
            GEMM.replace(",m,", ",m,extra,").replace(",1,3", ",1,0,3").replace(",16,4", ",16,0,4"),
            "unknown column 'extra'",
        ),
        (GEMM.replace(",3\n", ",-3\n"), "row 1: -3; expected above 0"),
        (GEMM.replace(",3\n", ",nan\n"), "row 1: nan; expected a finite number"),
        (GEMM.replace(",3\n", ",three\n"), "gemm.csv: .*three"),
        (GEMM.replace("n,k,m", "n,n,m"), "two columns of the same name"),
        ("dtype,n,k,m,time_us\n", "no rows"),
        (GEMM + "bf16,64,64,16,5\n", r"gemm.m: two rows with the same keys \(m = 16\)"),
    ],
)
def test_a_bad_table_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        load_tables(folder(tmp_path / "t", gemm=text)).grid("gemm", dtype="bf16")


def test_a_bad_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        load_tables(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no table\.yaml in it"):
        load_tables(tmp_path / "empty")
    with pytest.raises(InputError, match="no tables in it"):
        load_tables(folder(tmp_path / "bare"))
    with pytest.raises(InputError, match=r"no kind of table is called 'gem'.*did you mean 'gemm'"):
        load_tables(folder(tmp_path / "typo", gem=GEMM))
    twice = folder(tmp_path / "twice", gemm=GEMM)
    (twice / "gemm.csv.gz").write_bytes(gzip.compress(GEMM.encode()))
    with pytest.raises(InputError, match="two files for gemm"):
        load_tables(twice)
    unknown = folder(tmp_path / "unknown", gemm=GEMM)
    (unknown / "table.yaml").write_text(MANIFEST + "gpus: 8\n")
    with pytest.raises(InputError, match=r"gpus: unknown key.*did you mean 'gpu'"):
        load_tables(unknown)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme", "hello")
    with pytest.raises(InputError, match=r"no table\.yaml in it"):
        load_tables(tmp_path / "other.zip")


def test_the_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    lines = GEMM.strip().split("\n")
    one = load_tables(folder(tmp_path / "a", gemm=GEMM))
    other = load_tables(folder(tmp_path / "b", gemm="\n".join([lines[0], *reversed(lines[1:])]) + "\n"))
    assert one.fingerprint() == other.fingerprint()
    found = other.grid("gemm", dtype="bf16")
    assert isinstance(found, Grid) and found.curve(64, 64).at(8.5) == pytest.approx(3.5e-6)


def test_kinds_of_two_sources(tables: Tables) -> None:
    one, other = tables(leave_out=("gemm",)), tables(leave_out=tuple(set(KINDS) - {"gemm"}))
    assert set(one.joined(other).kinds) == set(tables().kinds)
    with pytest.raises(InputError, match="gemm, also in made up"):
        tables().joined(other)
    a100 = TableSet(Provenance(gpu="A", source="s", licence="l", hardware="a100-80gb"), {}, "elsewhere")
    with pytest.raises(InputError, match="tables of a100-80gb; expected h100"):
        tables().joined(a100)


def test_one_point_is_constant() -> None:
    column = np.array([7.0])
    table = make_table("collective", {
        "op": np.array(["all_reduce"]), "ranks": np.array([2]), "backend": np.array(["nccl"]), "bytes": column,
        "time_s": np.array([1e-5]),
    }, "t")  # fmt: skip
    curve = table.grid()
    assert isinstance(curve, Curve) and curve.at(1) == curve.at(1e9) == 1e-5 and curve.measured == 7


def test_linear_between_ragged_rows() -> None:
    """A function linear in each key is met exactly between rows that have axes of their own."""

    def value(x: float, y: float) -> float:
        return 3 + 2 * x + 5 * y + x * y

    points = [(1, 0), (1, 10), (1, 50), (4, 5), (4, 60), (9, 0), (9, 20), (9, 40)]
    keys = [np.array([x for x, _ in points], float), np.array([y for _, y in points], float)]
    made = grid(keys, np.array([value(x, y) for x, y in points]), ("x", "y"))
    assert isinstance(made, Grid)
    for x, y in ((1, 7), (2.5, 30), (6, 17), (9, 33)):
        assert made.at(x, y) == (pytest.approx(value(x, y)), True)
        assert made.curve(x).at(y) == pytest.approx(value(x, y))
    assert made.at(12, 30) == (pytest.approx(value(12, 30)), False)  # the last two are continued
    assert made.at(0.5, 30)[0] == made.at(1, 30)[0]  # the first one counts below
