"""What a run is given: the requests of a trace as the flags change them, and the users of a closed loop."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import InputError
from ..traces.columns import Floats
from ..traces.commands import change_trace, read_trace
from ..traces.table import RequestTable

_OF_ARRIVALS = ("columns", "sort", "jitter", "window", "rate_scale")  # flags that mean nothing to a closed loop


@dataclass(frozen=True)
class Workload:
    """drawn : another seed gives other requests. users, think_time : of a closed loop, as `run` takes them."""

    requests: RequestTable
    drawn: bool = False
    users: int = 0
    think_time: Floats | None = None

    def changed(self, requests: RequestTable) -> Workload:
        """With some of the requests. Think times are drawn independently of these, so they take the first of those."""
        think_time = None if self.think_time is None else self.think_time[: len(requests)]
        return replace(self, requests=requests, think_time=think_time)


def read_workload(args: argparse.Namespace, seed: int) -> Workload:
    """The workload of `args.trace`: a recorded trace, or what `seed` draws from a generator's parameter file."""
    from ..traces.load import is_spec

    if not is_spec(args.trace):
        return Workload(change_trace(read_trace(args.trace, args, seed), args))
    from ..traces.params import read_yaml

    if read_yaml(args.trace).get("kind") == "closed_loop":
        return _closed_loop(args, seed)
    return Workload(change_trace(read_trace(args.trace, args, seed), args), drawn=True)


def load_workload(path: Path, seed: int) -> Workload:
    """The same from Python: a trace of any known format as it is, or what `seed` draws."""
    from ..traces.load import is_spec, load
    from ..traces.params import read_yaml

    if not is_spec(path):
        return Workload(load(path))
    return _users(path, seed) if read_yaml(path).get("kind") == "closed_loop" else Workload(load(path, seed=seed), True)


def _closed_loop(args: argparse.Namespace, seed: int) -> Workload:
    for name in _OF_ARRIVALS:
        if getattr(args, name):
            found = f"given for the closed loop {args.trace}, whose users send when they are ready"
            raise InputError(f"--{name.replace('_', '-')}", found, "a trace with arrival times")
    loop = _users(args.trace, seed)
    return loop.changed(change_trace(loop.requests, args))


def _users(path: Path, seed: int) -> Workload:
    from ..traces.generate import closed_loop
    from ..traces.spec import load_spec

    loop = closed_loop(load_spec(path), seed)
    return Workload(loop.requests, True, loop.users, loop.think_time)
