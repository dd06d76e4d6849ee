"""Where the runs of a sweep take place: a protocol, and worker processes on this machine."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

from ..orphans import end_with_parent
from .run import Job, Outcome, Source, attempt


class Executor(Protocol):
    """Does jobs, several at once."""

    @property
    def slots(self) -> int:
        """How many jobs it can work on now."""
        ...

    def submit(self, job: Job) -> None:
        """Begin a job; there must be a free slot."""
        ...

    def wait(self) -> list[tuple[Job, Outcome]]:
        """The jobs that have come to an end since the last call, at least one; waits for it."""
        ...

    def close(self) -> None:
        """Stop everything, finished or not."""
        ...


class Here:
    """Does each job in this process, with traces that are at hand by path."""

    slots = 1

    def __init__(self, sources: Mapping[Path, Source]) -> None:
        self._sources = sources
        self._jobs: list[Job] = []

    def submit(self, job: Job) -> None:
        """Keep the job for `wait`."""
        self._jobs.append(job)

    def wait(self) -> list[tuple[Job, Outcome]]:
        """Do what was submitted."""
        jobs, self._jobs = self._jobs, []
        return [(job, attempt(job, self._sources[job.trace])) for job in jobs]

    def close(self) -> None:
        """Nothing is left running."""


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    job: Job | None = None


class LocalExecutor:
    """Worker processes, started when there is work. Each reads a trace once and keeps it.

    `concurrent.futures` would do but for one thing: when a worker is killed it gives up the whole pool and does not
    say whose job it was.
    """

    def __init__(self, workers: int) -> None:
        self.slots = workers
        self._context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        self._workers: list[_Worker] = []

    def submit(self, job: Job) -> None:
        """Give the job to an idle worker, new if need be."""
        worker = next((w for w in self._workers if w.job is None), None) or self._start()
        worker.job = job
        with suppress(OSError):  # it has died idle; `wait` will find that out
            worker.pipe.send(job)

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs,), daemon=True)
        with _without_interrupts():
            process.start()
        theirs.close()  # or else its end would never be seen here
        self._workers.append(_Worker(process, ours))
        return self._workers[-1]

    def wait(self) -> list[tuple[Job, Outcome]]:
        """What has ended."""
        busy = {worker.pipe: worker for worker in self._workers if worker.job}
        return [self._result(busy[pipe]) for pipe in wait(list(busy)) if isinstance(pipe, Connection)]

    def _result(self, worker: _Worker) -> tuple[Job, Outcome]:
        assert worker.job
        job, worker.job = worker.job, None
        try:
            outcome: Outcome = worker.pipe.recv()
        except (EOFError, OSError):
            self._workers.remove(worker)
            worker.process.join()
            outcome = Outcome("lost", error=_how_it_ended(worker.process.exitcode or 0))
        return job, outcome

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()
        self._workers.clear()


def _serve(pipe: Connection) -> None:
    """The life of a worker: jobs in, outcomes out."""
    end_with_parent()
    with suppress(EOFError, OSError):
        while True:
            pipe.send(attempt(pipe.recv()))


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C reaches every process of a terminal; those started in here leave it to their parent."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _how_it_ended(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
