"""What changes while a plan runs: replicas that come and go by scaling, and faults."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import InputError
from .engine import PolicyChoice
from .strict import build, check, read_mapping

LONGEST = 1e8  # seconds that any wait may take


@dataclass(frozen=True)
class Scaling:
    """How many replicas a pool has over time; its `replicas` are those at the start.

    pool : its name. policy : an autoscaler. period : seconds between its looks. cooldown : seconds after a change
    before the next one down. start_up : seconds until a new replica serves; by default the weights of one accelerator
    over `load_bandwidth` bytes/s.
    """

    pool: str
    policy: PolicyChoice
    min_replicas: int = 1
    max_replicas: int = 1
    period: float = 10.0
    cooldown: float = 0.0
    start_up: float | None = None
    load_bandwidth: float = 2e9

    def __post_init__(self) -> None:
        check(self.min_replicas >= 1, "min_replicas", self.min_replicas, "at least 1")
        if self.max_replicas < self.min_replicas:
            raise InputError(
                "max_replicas", f"{self.max_replicas}, below min_replicas = {self.min_replicas}", "no less"
            )
        check(1e-3 <= self.period <= LONGEST, "period", self.period, "seconds from 1e-3 to 1e8")
        check(0 <= self.cooldown <= LONGEST, "cooldown", self.cooldown, f"0 to {LONGEST:g} seconds")
        wait = self.start_up
        check(wait is None or 0 <= wait <= LONGEST, "start_up", wait, f"0 to {LONGEST:g} seconds")
        check(self.load_bandwidth > 0, "load_bandwidth", self.load_bandwidth, "bytes/s above 0")


@dataclass(frozen=True)
class Fault:
    """Something that breaks at `at` seconds.

    kind : "crash", a replica loses everything and is back `duration` seconds later plus its start-up, or never;
        "gpu_loss", likewise, for a tensor-parallel group serves with all of its accelerators or not at all;
        "slow", its iterations take `factor` times as long; "link", its links keep `factor` of their bandwidth.
    replica : pool/number, counted from 0; for "link" also the key of a link between fabrics.
    """

    at: float
    kind: Literal["crash", "gpu_loss", "slow", "link"]
    replica: str
    duration: float | None = None
    factor: float = 1.0

    def __post_init__(self) -> None:
        check(0 <= self.at <= LONGEST, "at", self.at, f"0 to {LONGEST:g} seconds")
        d = self.duration
        check(d is None or 0 <= d <= LONGEST, "duration", d, f"0 to {LONGEST:g} seconds")
        if self.kind == "slow":
            check(1 <= self.factor <= 1e6, "factor", self.factor, "at least 1, how many times as long")
        if self.kind == "link":
            check(0 < self.factor <= 1, "factor", self.factor, "a share above 0, at most 1")


@dataclass(frozen=True)
class FaultRate:
    """Crashes at random: exponential times of `mean_time_between_failures` seconds of a replica's service, and of
    `mean_time_to_repair`."""

    mean_time_between_failures: float
    mean_time_to_repair: float

    def __post_init__(self) -> None:
        for key in ("mean_time_between_failures", "mean_time_to_repair"):
            check(0 < getattr(self, key) <= LONGEST, key, getattr(self, key), f"seconds above 0, at most {LONGEST:g}")


@dataclass(frozen=True)
class Faults:
    """events : faults, in any order; file : a YAML file with more of them under `events`. rate : seeded crashes.

    in_flight : what becomes of requests that a crash hits: "recompute", another replica computes prompt and answer so
        far and goes on; "retry", the request fails and its client sends it again, `retries` times at most, `backoff`
        seconds later; "fail". detection : seconds until the cluster notices and acts.
    """

    events: tuple[Fault, ...] = ()
    file: str | None = None
    rate: FaultRate | None = None
    in_flight: Literal["recompute", "retry", "fail"] = "recompute"
    detection: float = 0.0
    retries: int = 3
    backoff: float = 1.0

    def __post_init__(self) -> None:
        check(0 <= self.detection <= LONGEST, "detection", self.detection, f"0 to {LONGEST:g} seconds")
        check(0 <= self.retries <= 100, "retries", self.retries, "0 to 100")
        check(0 <= self.backoff <= LONGEST, "backoff", self.backoff, f"0 to {LONGEST:g} seconds")

    def all_events(self, folder: str) -> tuple[tuple[str, Fault], ...]:
        """(where it stands, fault), those of the file included; its path starts at `folder`."""
        here = [(f"faults.events[{i}]", fault) for i, fault in enumerate(self.events)]
        if self.file is None:
            return tuple(here)
        path = Path(folder) / self.file
        try:
            more = build(_FaultFile, read_mapping(path))
        except InputError as error:
            raise error if error.where.startswith(str(path)) else error.at(f"{path}:") from None
        return (*here, *((f"{path}: events[{i}]", fault) for i, fault in enumerate(more.events)))


@dataclass(frozen=True)
class _FaultFile:
    events: tuple[Fault, ...]
