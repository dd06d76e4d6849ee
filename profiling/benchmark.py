"""Benchmarks of single kernels: cases, the least time that each could take, and rows that a rerun goes on from.

The bound is the longer of bytes / (a large copy's bandwidth) and operations / (a large bf16 product's rate), both
measured on the machine in the same run; `share` is bound / time.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from ..errors import InputError
from ..sim.report.write import write_json
from .machine import Machine, ceilings, find_machine, make_timer
from .results import configurations
from .timer import Call, Timer

_SETS = 4  # of inputs that a measurement rotates through
_LARGE = 256 << 20  # bytes: inputs larger than this need no second set


@dataclass(frozen=True)
class Case:
    """A measurement: what runs, and the least that it must move (bytes) and compute (operations).

    make : inputs, and the call on them; as often as the device's cache calls for.
    """

    kernel: str
    provider: str
    shape: dict[str, Any]
    make: Callable[[], Call]
    bytes: float = 0.0
    flops: float = 0.0

    @property
    def key(self) -> str:
        return json.dumps([self.kernel, self.provider, self.shape])

    def calls(self) -> list[Call]:
        return [self.make() for _ in range(1 if self.bytes > _LARGE else _SETS)]


class Benchmark:
    """Measures cases and appends their rows to `path`; what is there already is not measured again."""

    def __init__(self, path: Path, machine: Machine, timer: Timer, limits: dict[str, float]) -> None:
        self._path, self._machine, self._timer, self._limits = path, machine, timer, limits
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            self.rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def run(self, cases: Iterable[Case], deadline: float) -> bool:
        """Measure what is missing; False where time ran out."""
        known = {row["key"] for row in self.rows}
        for case in cases:
            if case.key in known:
                continue
            if monotonic() > deadline:
                return False
            row = {"key": case.key, "kernel": case.kernel, "provider": case.provider, "shape": case.shape}
            row |= self._measure(case)
            row |= {"ceilings": self._limits, "gpu": self._machine.name, "software": self._machine.software}
            self.rows.append(row)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        return True

    def _measure(self, case: Case) -> dict[str, Any]:
        try:
            sample = self._timer.measure(case.calls())
        except (RuntimeError, MemoryError) as error:  # a back end that this GPU or torch lacks, or out of memory
            return {"failed": (str(error).splitlines() or [type(error).__name__])[0][:200]}
        finally:
            if self._machine.device == "cuda":
                torch.cuda.empty_cache()
        limits = self._limits
        bound = max(case.bytes / limits["copy_bytes_per_s"], case.flops / limits["bf16_flops"])
        return {**asdict(sample), "bytes": case.bytes, "flops": case.flops, "share": bound / sample.seconds}

    def table(self) -> str:
        """All rows, for a terminal."""
        copy, product = self._limits["copy_bytes_per_s"] / 1e9, self._limits["bf16_flops"] / 1e12
        lines = [f"{self._machine.name}: copy {copy:,.0f} GB/s, bf16 product {product:,.1f} TFLOP/s"]
        for row in self.rows:
            shape = ", ".join(f"{name} {value}" for name, value in row["shape"].items())
            figures = row.get("failed") or (
                f"{row['seconds'] * 1e6:10.1f} us{row['bytes'] / row['seconds'] / 1e9:9.1f} GB/s"
                f"{row['flops'] / row['seconds'] / 1e12:9.2f} TFLOP/s{100 * row['share']:6.0f} %"
            )
            lines.append(f"{row['kernel']:<22}{row['provider']:<24}{shape:<52}{figures}")
        return "\n".join(lines)


def main(cases: Callable[[], Iterable[Case]], name: str) -> None:
    """The command line of a script with cases: --out DIR, --only NAME, --minutes M."""
    parser = argparse.ArgumentParser(description="Benchmark kernels on this GPU; run again to go on.")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the rows")
    parser.add_argument("--only", default="", help="kernels whose name holds this")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no case after so long")
    args = parser.parse_args()
    deadline = monotonic() + 60 * args.minutes
    try:
        machine, timer = find_machine("cuda"), make_timer("cuda")
    except InputError as error:
        raise SystemExit(str(error)) from None
    benchmark = Benchmark(args.out / f"{name}.jsonl", machine, timer, ceilings(machine, timer))
    complete = benchmark.run((case for case in cases() if args.only in case.kernel), deadline)
    path = args.out / f"{name}-configurations.json"
    write_json(configurations(json.loads(path.read_text()) if path.exists() else {}), path)
    print(benchmark.table())
    if not complete:
        raise SystemExit(75)  # EX_TEMPFAIL: out of time
