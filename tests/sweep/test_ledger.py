"""The ledger keeps what it was told, refuses what it does not know, and survives a full disk."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from servecast.errors import InputError
from servecast.planner.sweep.ledger import Ledger

RUNS = [(f"run{i}", {"seed": i}, {"plan": "p"}) for i in range(4)]


def test_it_remembers(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path)) as ledger:
        ledger.add(RUNS)
        ledger.start("run0")
        ledger.finish("run0", "runs/run0/report.json")
        ledger.start("run1")
        ledger.fail("run1", "bad luck", final=False)
        ledger.start("run1")
        ledger.fail("run1", "bad again", final=True)
        ledger.start("run2")
    with closing(Ledger(tmp_path)) as ledger:
        rows = ledger.rows()
        assert list(rows) == ["run0", "run1", "run2", "run3"]
        assert [(r.status, r.attempts, r.error) for r in rows.values()] == [
            ("done", 1, ""), ("failed", 2, "bad again"), ("running", 0, ""), ("waiting", 0, "")
        ]  # fmt: skip
        assert rows["run3"].settings == {"seed": 3} and rows["run3"].parts == {"plan": "p"}
        ledger.stop_running()
        ledger.put_back("run1")
        assert [r.status for r in ledger.rows().values()] == ["done", "waiting", "waiting", "waiting"]
        assert ledger.rows()["run1"].attempts == 0


def test_adding_is_all_or_nothing(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path)) as ledger:
        ledger.add(RUNS[:1])
        with pytest.raises(InputError):
            ledger.add([*RUNS[1:], RUNS[0]])
        assert list(ledger.rows()) == ["run0"]


def alter(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(statement)


def test_another_version_is_refused(tmp_path: Path) -> None:
    Ledger(tmp_path).close()
    alter(tmp_path / "ledger.sqlite", "PRAGMA user_version = 7")
    before = (tmp_path / "ledger.sqlite").read_bytes()
    with pytest.raises(InputError, match=r"ledger.sqlite: a ledger of version 7; expected version 1"):
        Ledger(tmp_path)
    assert (tmp_path / "ledger.sqlite").read_bytes() == before


def test_what_is_no_ledger_is_refused(tmp_path: Path) -> None:
    alter(tmp_path / "ledger.sqlite", "CREATE TABLE mine (x)")
    with pytest.raises(InputError, match="a database, but no ledger"):
        Ledger(tmp_path)
    (tmp_path / "ledger.sqlite").write_text("runs,seed\n" * 100)
    with pytest.raises(InputError, match=r"no ledger \(file is not a database\)"):
        Ledger(tmp_path)


def test_one_at_a_time(tmp_path: Path) -> None:
    with (
        closing(Ledger(tmp_path)),
        pytest.raises(InputError, match="another sweep is writing here"),
    ):
        Ledger(tmp_path)
    Ledger(tmp_path).close()


def test_readers_are_welcome(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path)) as ledger:
        ledger.add(RUNS)
        with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as db:
            assert db.execute("SELECT count(*) FROM runs").fetchone() == (4,)
        ledger.start("run0")


def test_a_full_disk_keeps_what_is_there(tmp_path: Path) -> None:
    """SQLite's own limit on pages raises the error of a full disk, by the same way."""
    with closing(Ledger(tmp_path)) as ledger:
        ledger.add(RUNS)
        ledger.finish("run0", "runs/run0/report.json")
        ledger._db.execute("PRAGMA max_page_count = 1")  # it cannot grow beyond the pages that it has
        with pytest.raises(
            InputError, match=r"cannot be written \(database or disk is full\).*what is finished is kept"
        ):
            for _ in range(100):
                ledger.fail("run1", "x" * 1000 * (_ + 1), final=False)
        assert ledger.rows()["run0"].status == "done"
    with closing(Ledger(tmp_path)) as ledger:
        assert [row.status for row in ledger.rows().values()] == ["done", "waiting", "waiting", "waiting"]
