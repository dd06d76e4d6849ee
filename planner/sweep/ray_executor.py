"""Runs of a sweep on an existing Ray cluster. Each trace goes into the object store: once to a node, not once a run."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..measure.fingerprint import code
from .run import Job, Outcome, Source, attempt

_FLAG = "--executor ray"


class RayExecutor:
    """As many runs at once as the cluster has CPUs, or `workers`.

    Connects to the cluster at `RAY_ADDRESS`, or to the one that runs on this machine, unless this process has a
    connection already. Every node needs the same servecast, Python and numpy, and cards that a plan names by path at
    that path. Raises `InputError` where Ray is not installed or no cluster can be reached.
    """

    def __init__(self, workers: int | None, sources: Mapping[Path, Source]) -> None:
        self._ray, self._borrowed = _connected()
        self._workers = workers
        self._attempt = self._ray.remote(max_retries=0, num_cpus=1)(attempt)  # retries are the sweep's own affair
        self._check_nodes()
        self._sources = {path: self._ray.put(source) for path, source in sources.items()}
        self._jobs: dict[Any, Job] = {}

    @property
    def slots(self) -> int:
        """Nodes may come and go while the sweep runs."""
        return self._workers or max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def submit(self, job: Job) -> None:
        """Give the job to the cluster."""
        self._jobs[self._attempt.remote(job, self._sources[job.trace])] = job

    def wait(self) -> list[tuple[Job, Outcome]]:
        """What has ended."""
        ended, _ = self._ray.wait(list(self._jobs))
        return [(self._jobs.pop(reference), self._outcome(reference)) for reference in ended]

    def _outcome(self, reference: Any) -> Outcome:
        try:
            outcome: Outcome = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:  # `attempt` itself raises nothing: its process or node is gone
            return Outcome("lost", error=f"ended with {type(error).__name__}")
        return outcome

    def close(self) -> None:
        """Stop what is running, and leave the cluster unless this process was connected before."""
        for reference in self._jobs:
            self._ray.cancel(reference, force=True)
        self._jobs.clear()
        if not self._borrowed:
            self._ray.shutdown()

    def _check_nodes(self) -> None:
        """One try before a thousand runs fail for the same reason."""
        try:
            theirs = self._ray.get(self._ray.remote(_code).remote())
        except self._ray.exceptions.RayError as error:
            found = f"the cluster cannot run servecast ({str(error).strip().splitlines()[-1]})"
            raise InputError(_FLAG, found, "the same servecast installed on every node") from None
        if theirs != code():
            raise InputError(_FLAG, "the cluster has another servecast, Python or numpy", "the same on every node")


def _code() -> str:
    """`code` as a plain function, which is what Ray takes."""
    return code()


def _connected() -> tuple[Any, bool]:
    """The module `ray`, connected to a cluster, and whether it was so before."""
    try:
        import ray
    except ImportError:
        raise InputError(_FLAG, "Ray is not installed", "`pip install 'servecast[distributed]'`") from None
    if ray.is_initialized():
        return ray, True
    try:
        _check_address()
        ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        found = f"no Ray cluster can be reached ({str(error).strip().splitlines()[0]})"
        raise InputError(_FLAG, found, "`ray start --head` on this machine, or the cluster's RAY_ADDRESS") from None
    return ray, False


def _check_address() -> None:
    """Raise `OSError` where nobody listens: Ray itself would try for a quarter of an hour, as of 2.60."""
    from ray._private.services import canonicalize_bootstrap_address

    if os.environ.get("RAY_ADDRESS", "").startswith("ray://"):  # Ray Client has a time limit of its own
        return
    address = canonicalize_bootstrap_address("auto")  # RAY_ADDRESS, or where the last `ray start` here left its own
    if address:
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except OSError as error:
            raise OSError(f"{address}: {error.strerror or error}") from None
