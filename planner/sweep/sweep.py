"""Many runs, once each: prepares them, hands them to workers, and keeps the books so that nothing is done twice."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...sim.report.write import prepare_folder, write_json
from ..measure.fingerprint import cards, digest
from .executors import Executor
from .ledger import Ledger, Row, Status
from .run import Job, Outcome, Source, changes, fingerprint_parts, load_source
from .spec import Case

LOSSES = 3  # workers that a run may lose before it is taken to be the reason


@dataclass(frozen=True)
class Prepared:
    """The runs of a sweep: jobs by fingerprint with the cases that they come from, and their traces by path."""

    jobs: dict[str, Job]
    cases: dict[str, Case]
    sources: dict[Path, Source]
    merged: tuple[str, ...]  # what was said twice, in words


@dataclass(frozen=True)
class Tally:
    """How far a sweep has come."""

    runs: int
    done: int
    failed: int
    running: int = 0

    @property
    def ended(self) -> int:
        """Runs that need no worker any more."""
        return self.done + self.failed


Progress = Callable[[Tally], None]


def prepare(cases: Iterable[Case]) -> Prepared:
    """Read every trace, fingerprint every run, and merge runs that are the same.

    Raises `InputError` for a trace that cannot be read, and where no plan at all could start; if only some could not,
    their runs will be in the ledger as failed.
    """
    sources: dict[Path, Source] = {}
    plans: dict[tuple[str, str], tuple[str, InputError | None]] = {}
    jobs: dict[str, Job] = {}
    kept: dict[str, Case] = {}
    merged = []
    for case in cases:
        if case.trace not in sources:
            sources[case.trace] = load_source(case.trace)
        key = case.plan.fingerprint(), case.plan.folder
        if key not in plans:
            plans[key] = cards(case.plan)
        parts = fingerprint_parts(case.settings, case.plan, plans[key][0], case.slo, sources[case.trace].fingerprint)
        fingerprint = digest(parts)
        if fingerprint in jobs:
            merged.append(f"{described(case.written)} is the same run as {described(kept[fingerprint].written)}")
        else:
            jobs[fingerprint] = Job(fingerprint, parts, case.settings, case.plan, case.slo, case.trace)
            kept[fingerprint] = case
    mistakes = [mistake for _, mistake in plans.values()]
    if mistakes and mistakes[0] and all(mistakes):
        raise mistakes[0].at(f"{described(next(iter(kept.values())).written)}:")
    return Prepared(jobs, kept, sources, tuple(merged))


def described(written: dict[str, Any]) -> str:
    """A run's settings in one line."""
    return ", ".join(f"{key}={value}" for key, value in written.items())


def open_ledger(prepared: Prepared, folder: Path, retry_failed: bool = False) -> Ledger:
    """The ledger in `folder` with every run in it, ready to go on where it was left.

    Raises `InputError` where a run's inputs have changed since the sweep began, besides what `Ledger` raises.
    """
    prepare_folder(folder)
    ledger = Ledger(folder)
    try:
        rows = ledger.rows()
        _check_unchanged(prepared, rows, ledger.path)
        ledger.stop_running()
        new = [fingerprint for fingerprint in prepared.jobs if fingerprint not in rows]
        ledger.add([(f, prepared.cases[f].written, prepared.jobs[f].parts) for f in new])
        for fingerprint in prepared.jobs.keys() & rows.keys():
            row = rows[fingerprint]
            lost = row.status == "done" and not _readable(folder / row.result)
            if lost or (retry_failed and row.status == "failed"):
                ledger.put_back(fingerprint)
    except BaseException:
        ledger.close()
        raise
    return ledger


def _check_unchanged(prepared: Prepared, rows: dict[str, Row], path: Path) -> None:
    by_settings = {json.dumps(row.settings): row for row in rows.values()}
    for fingerprint, case in prepared.cases.items():
        row = by_settings.get(json.dumps(case.written))
        if row and row.fingerprint != fingerprint and fingerprint not in rows:
            what = changes(row.parts, prepared.jobs[fingerprint].parts)
            raise _changed(f"{path}: {described(case.written)}", what)


def _changed(where: str, what: str) -> InputError:
    found = f"changed since the sweep began: {what}"
    return InputError(where, found, "the same inputs to the end, or another folder for a sweep with new ones")


def _readable(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return True


class Sweep:
    """The runs of a ledger that have not ended, done one after another by an executor.

    retries : how often a run that failed by no mistake in its input is tried again.
    """

    def __init__(self, prepared: Prepared, ledger: Ledger, folder: Path, retries: int = 1) -> None:
        self._prepared, self._ledger, self._folder, self._retries = prepared, ledger, folder, retries
        rows = ledger.rows()
        self._status = {fingerprint: rows[fingerprint].status for fingerprint in prepared.jobs}
        self._count = Counter(self._status.values())
        self._attempts = {fingerprint: rows[fingerprint].attempts for fingerprint in prepared.jobs}
        self._losses: Counter[str] = Counter()

    def tally(self) -> Tally:
        """Where it stands."""
        return Tally(len(self._status), self._count["done"], self._count["failed"], self._count["running"])

    def run(self, executor: Executor, progress: Progress | None = None) -> None:
        """Do every run that waits, and write `runs/FINGERPRINT/report.json` of each.

        The order in which runs end changes nothing in the folder. Raises `InputError` if an input changes meanwhile
        or the disk is full; what is finished by then stays finished.
        """
        waiting = deque(fingerprint for fingerprint, status in self._status.items() if status == "waiting")
        try:
            while waiting or self._count["running"]:
                while waiting and self._count["running"] < executor.slots:
                    fingerprint = waiting.popleft()
                    self._ledger.start(fingerprint)
                    self._set(fingerprint, "running")
                    executor.submit(self._prepared.jobs[fingerprint])
                if progress:
                    progress(self.tally())
                for job, outcome in executor.wait():
                    self._take(job.fingerprint, outcome)
                    if self._status[job.fingerprint] == "waiting":
                        waiting.appendleft(job.fingerprint)
        finally:
            with suppress(InputError):  # the disk is full: the next sweep will do it
                self._ledger.stop_running()

    def _set(self, fingerprint: str, status: Status) -> None:
        self._count[self._status[fingerprint]] -= 1
        self._count[status] += 1
        self._status[fingerprint] = status

    def _take(self, fingerprint: str, outcome: Outcome) -> None:
        """Enter what became of a run."""
        if outcome.kind == "done":
            result = f"runs/{fingerprint}/report.json"
            prepare_folder((self._folder / result).parent)
            write_json(outcome.report, self._folder / result)
            self._ledger.finish(fingerprint, result)
            self._set(fingerprint, "done")
        elif outcome.kind == "changed":
            raise _changed(described(self._prepared.cases[fingerprint].written), outcome.error)
        elif outcome.kind == "lost":
            self._losses[fingerprint] += 1
            final = self._losses[fingerprint] == LOSSES
            if final:
                self._ledger.give_up(fingerprint, f"lost {LOSSES} workers, the last one {outcome.error}")
            self._set(fingerprint, "failed" if final else "waiting")
        else:
            self._attempts[fingerprint] += 1
            final = outcome.kind == "refused" or self._attempts[fingerprint] > self._retries
            self._ledger.fail(fingerprint, outcome.error, final)
            self._set(fingerprint, "failed" if final else "waiting")
