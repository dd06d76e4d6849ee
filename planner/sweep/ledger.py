"""The ledger of a sweep: an SQLite file with one row a run. It holds no times, so equal sweeps have equal ledgers."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...errors import InputError

VERSION = 1
_OURS = 0x53_43_4C_47  # "SCLG" in SQLite's header, so that another program's file is told from an older ledger
_TABLE = """
CREATE TABLE runs (
    fingerprint TEXT PRIMARY KEY,
    settings TEXT NOT NULL,     -- as the sweep's file says them, JSON
    parts TEXT NOT NULL,        -- fingerprints of its inputs, JSON
    status TEXT NOT NULL DEFAULT 'waiting' CHECK (status IN ('waiting', 'running', 'done', 'failed')),
    attempts INTEGER NOT NULL DEFAULT 0,    -- that came to an end of their own; one whose worker was killed is none
    error TEXT NOT NULL DEFAULT '',         -- of the last attempt
    result TEXT NOT NULL DEFAULT ''         -- path of its report, from the ledger's folder
)
"""

Status = Literal["waiting", "running", "done", "failed"]


@dataclass(frozen=True)
class Row:
    """A run in the ledger."""

    fingerprint: str
    settings: dict[str, Any]
    parts: dict[str, str]
    status: Status
    attempts: int
    error: str
    result: str


class Ledger:
    """The ledger in a folder, made where there is none. One process at a time may have it.

    Every change is on disk when its method returns. Raises `InputError` for a file that is no ledger of this version,
    for one that another sweep has, and when the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ledger.sqlite"
        self._lock = _lock(folder)
        self._db = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        try:
            with self._errors():
                self._open()
        except InputError:
            self.close()
            raise

    def _open(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        (owner,) = self._db.execute("PRAGMA application_id").fetchone()
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if not tables:
            with self._transaction():
                self._db.execute(_TABLE)
                self._db.execute(f"PRAGMA user_version = {VERSION}")
                self._db.execute(f"PRAGMA application_id = {_OURS}")
        elif owner != _OURS:
            raise InputError(str(self.path), "a database, but no ledger of a sweep", "another folder for the results")
        elif version != VERSION:
            found = f"a ledger of version {version}"
            raise InputError(str(self.path), found, f"version {VERSION}; finish it with the servecast that began it")

    def close(self) -> None:
        """Let others have it."""
        self._db.close()
        self._lock.close()

    def rows(self) -> dict[str, Row]:
        """Every run by fingerprint, in the order in which they were added."""
        with self._errors():
            found = self._db.execute("SELECT * FROM runs ORDER BY rowid").fetchall()
        return {row[0]: Row(row[0], json.loads(row[1]), json.loads(row[2]), *row[3:]) for row in found}

    def add(self, runs: Sequence[tuple[str, dict[str, Any], dict[str, str]]]) -> None:
        """Add (fingerprint, settings, parts) of runs that wait: all of them or, if that fails, none."""
        rows = [(fingerprint, json.dumps(settings), json.dumps(parts)) for fingerprint, settings, parts in runs]
        with self._errors(), self._transaction():
            self._db.executemany("INSERT INTO runs (fingerprint, settings, parts) VALUES (?, ?, ?)", rows)

    def start(self, fingerprint: str) -> None:
        """A worker has it."""
        self._update("status = 'running' WHERE fingerprint = ?", fingerprint)

    def finish(self, fingerprint: str, result: str) -> None:
        """It is done, and its report is at `result`."""
        change = "status = 'done', attempts = attempts + 1, error = '', result = ?"
        self._update(change + " WHERE fingerprint = ?", result, fingerprint)

    def fail(self, fingerprint: str, error: str, final: bool) -> None:
        """An attempt has failed, and unless that is `final` there will be another."""
        change = "status = ?, attempts = attempts + 1, error = ?"
        self._update(change + " WHERE fingerprint = ?", "failed" if final else "waiting", error, fingerprint)

    def give_up(self, fingerprint: str, error: str) -> None:
        """It has failed without an attempt that came to an end."""
        self._update("status = 'failed', error = ? WHERE fingerprint = ?", error, fingerprint)

    def put_back(self, fingerprint: str) -> None:
        """It waits again, as if it had never been tried."""
        self._update("status = 'waiting', attempts = 0, error = '', result = '' WHERE fingerprint = ?", fingerprint)

    def stop_running(self) -> None:
        """Whatever was running waits again."""
        self._update("status = 'waiting' WHERE status = 'running'")

    def _update(self, change: str, *values: str) -> None:
        with self._errors(), self._transaction():
            self._db.execute(f"UPDATE runs SET {change}", values)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # a full disk may have ended it already
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:  # full, read-only, locked by a reader for too long
            found = f"cannot be written ({error})"
            raise InputError(str(self.path), found, "room and permission; what is finished is kept") from None
        except sqlite3.DatabaseError as error:
            raise InputError(str(self.path), f"no ledger ({error})", "another folder for the results") from None


def _lock(folder: Path) -> Any:
    """Keep a second sweep out of `folder`, until the file that is returned is closed or this process ends."""
    import fcntl

    lock = open(folder / ".lock", "w")  # noqa: SIM115  # held as long as the ledger
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise InputError(str(folder), "another sweep is writing here", "its end, or another folder") from None
    return lock
