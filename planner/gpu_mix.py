"""The cheapest mix of GPU types for a workload of request sizes, each type with its known rate by size.

Source of the problem: Melange (arXiv 2404.14527, tyler-griggs/melange-release), which gives each bucket of sizes, or
each of a few equal slices of it, whole to one type. Here shares are continuous by default: fewer integers, and never
dearer.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

from ..configs.strict import build, check
from ..errors import InputError
from .milp import Outcome, Program, total

Table = tuple[tuple[float | None, ...], ...]  # by input bucket, then output bucket


@dataclass(frozen=True)
class GpuType:
    """cost_per_h : USD. max_req_s : requests/s of one GPU by bucket; 0 or null where it cannot serve them."""

    cost_per_h: float
    max_req_s: Table

    def __post_init__(self) -> None:
        check(self.cost_per_h > 0, "cost_per_h", self.cost_per_h, "USD an hour, above 0")
        for i, row in enumerate(self.max_req_s):
            for j, rate in enumerate(row):
                check(rate is None or rate >= 0, f"max_req_s[{i}][{j}]", rate, "requests/s, not negative")


@dataclass(frozen=True)
class GpuMix:
    """workload_share : of requests by bucket, in sum 1. request_rate : requests/s in all."""

    gpus: dict[str, GpuType]
    workload_share: tuple[tuple[float, ...], ...]
    request_rate: float
    name: str = "gpu_mix"

    def __post_init__(self) -> None:
        check(bool(self.gpus), "gpus", self.gpus, "at least one GPU type")
        check(self.request_rate > 0, "request_rate", self.request_rate, "requests/s above 0")
        shape = [len(row) for row in self.workload_share]
        for gpu, kind in self.gpus.items():
            found = [len(row) for row in kind.max_req_s]
            check(found == shape, f"gpus.{gpu}.max_req_s", found, f"rows as long as those of workload_share, {shape}")
        shares = [share for row in self.workload_share for share in row]
        check(all(share >= 0 for share in shares), "workload_share", min(shares, default=0), "shares, not negative")
        check(abs(sum(shares) - 1) < 0.01, "workload_share", sum(shares), "shares that sum to 1")
        for i, j, _ in self.buckets():
            fastest = max(kind.max_req_s[i][j] or 0 for kind in self.gpus.values())
            check(fastest > 0, f"gpus.*.max_req_s[{i}][{j}]", fastest, "a GPU that can serve a bucket with load")

    def buckets(self) -> list[tuple[int, int, float]]:
        """(input bucket, output bucket, requests/s) of every bucket with load."""
        rows = enumerate(self.workload_share)
        return [(i, j, share * self.request_rate) for i, row in rows for j, share in enumerate(row) if share > 0]


@dataclass(frozen=True)
class Mix:
    """counts : GPUs by type. shares : by (input bucket, output bucket), of each type."""

    outcome: Outcome
    cost: float
    counts: dict[str, int]
    shares: dict[tuple[int, int], dict[str, float]]


def mix_from(data: dict[str, Any], name: str) -> GpuMix:
    """From the mapping `instance` of a file; `rows` and `cols` only say what the axes are."""
    values = {"name": name, **{key: value for key, value in data.items() if key not in ("rows", "cols")}}
    return build(GpuMix, values)


def cheapest_mix(mix: GpuMix, solver: str, time_limit: float = inf, slices: int | None = None) -> Mix | None:
    """Solve; None where the time limit leaves no solution.

    slices : cut each bucket into so many equal parts that go whole to one type; None: shares are continuous.
    """
    program = Program("gpu_mix")
    counts = {gpu: program.count(f"n{g}") for g, gpu in enumerate(mix.gpus)}
    program.aim(kind.cost_per_h * counts[gpu] for gpu, kind in mix.gpus.items())
    load: dict[str, list[Any]] = {gpu: [] for gpu in mix.gpus}
    parts: dict[tuple[int, int], dict[str, str]] = {}
    for i, j, rate in mix.buckets():
        part = {}
        for g, (gpu, kind) in enumerate(mix.gpus.items()):
            fastest = kind.max_req_s[i][j]
            if fastest:
                name = f"x{i}_{j}_{g}"
                share = program.number(name, 0, 1) if slices is None else program.count(name, 0, slices)
                part[gpu] = share
                load[gpu].append(rate / fastest / (slices or 1) * share)
        program.require(total(part.values()) == (slices or 1), f"served{i}_{j}")
        parts[i, j] = {gpu: share.name for gpu, share in part.items()}
    for g, gpu in enumerate(mix.gpus):
        program.require(total(load[gpu]) <= counts[gpu], f"capacity{g}")
    outcome = program.solve(solver, time_limit=time_limit)
    if outcome.value is None:
        return None
    chosen = {gpu: round(outcome.values[variable.name]) for gpu, variable in counts.items()}
    shares = {
        bucket: {gpu: outcome.values[name] / (slices or 1) for gpu, name in part.items() if outcome.values[name] > 1e-9}
        for bucket, part in parts.items()
    }
    cost = sum(mix.gpus[gpu].cost_per_h * n for gpu, n in chosen.items())
    return Mix(outcome, cost, chosen, shares)


def no_solution(mix: GpuMix, time_limit: float) -> InputError:
    """The error for a time limit that was too short."""
    return InputError("--time-limit", f"{time_limit:g} s left {mix.name} without a solution", "more seconds")
