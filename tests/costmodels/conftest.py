"""A made-up accelerator whose kernels follow formulas, and tables of it: the same formulas at a few points."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servecast.costmodels.table import Provenance, Table, TableSet, make_table

GRID = {
    "m": [1, 16, 256, 4096],
    "n": [256, 2048, 32768, 262144],
    "k": [256, 4096, 32768],
    "batch": [1, 8, 64, 512],
    "context": [1, 128, 2048, 32768],
    "chunk": [1, 64, 512, 4096, 16384],
    "tokens": [1, 16, 256, 4096],
    "bytes": [1 << 10, 1 << 16, 1 << 22, 1 << 30],
}
WATTS = 500.0


class Formulas:
    """Seconds of single kernels, possible on an H100: linear in each of their sizes, prompts quadratic."""

    def gemm(self, m: float, n: float, k: float) -> float:
        return 2e-6 + n * k / 2e12 + m * n * k / 4e14

    def prompt(self, batch: float, chunk: float) -> float:
        return 1e-5 + batch * (2e-8 * chunk + 1.5e-11 * chunk * chunk)

    def decode(self, batch: float, context: float) -> float:
        return 8e-6 + batch * (1e-8 + 1.5e-9 * context)

    def moe(self, tokens: float) -> float:
        return 3e-5 + 4e-8 * tokens

    def message(self, size: float, ranks: int) -> float:
        return 5e-6 + size / 2e11 + 1e-7 * ranks

    def elementwise(self, size: float) -> float:
        return 3e-6 + size / 2e12


def rows(*axes: list[Any]) -> list[np.ndarray]:
    """The columns of the product of some lists."""
    return [np.array(column) for column in zip(*itertools.product(*axes), strict=True)]


def same(column: np.ndarray, value: object) -> np.ndarray:
    """A column with one value."""
    return np.full(len(column), value)


@pytest.fixture(scope="session")
def formulas() -> Formulas:
    return Formulas()


@pytest.fixture(scope="session")
def tables(formulas: Formulas) -> Callable[..., TableSet]:
    """Tables for heads of 128 numbers: `tables(heads=..., kv_heads=..., power=...)`."""

    def table(
        kind: str, columns: dict[str, np.ndarray], seconds: Callable[..., float], *names: str, power: bool
    ) -> Table:
        times = [seconds(*point) for point in zip(*(columns[name] for name in names), strict=True)]
        columns = {**columns, "time_s": np.array(times)}
        if power:
            columns["power_w"] = same(columns["time_s"], WATTS)
        return make_table(kind, columns, kind)

    def build(heads: int = 32, kv_heads: int = 8, power: bool = False, leave_out: tuple[str, ...] = ()) -> TableSet:
        found: dict[str, Table] = {}
        n, k, m = rows(GRID["n"], GRID["k"], GRID["m"])
        gemm = {"dtype": same(n, "bf16"), "n": n, "k": k, "m": m}
        found["gemm"] = table("gemm", gemm, formulas.gemm, "m", "n", "k", power=power)
        labels = {
            "dtype": "bf16",
            "kv_dtype": "bf16",
            "heads": heads,
            "kv_heads": kv_heads,
            "head_dim": 128,
            "window": 0,
        }
        batch, chunk = rows(GRID["batch"], GRID["chunk"])
        prompts = {name: same(batch, value) for name, value in labels.items()}
        prompts |= {"batch": batch, "chunk": chunk, "context": same(batch, 0)}
        found["prefill_attention"] = table("prefill_attention", prompts, formulas.prompt, "batch", "chunk", power=power)
        batch, context = rows(GRID["batch"], GRID["context"])
        decodes = {name: same(batch, value) for name, value in labels.items()} | {"batch": batch, "context": context}
        found["decode_attention"] = table("decode_attention", decodes, formulas.decode, "batch", "context", power=power)
        operator, size = rows(["norm", "rotary", "activation", "embedding"], GRID["bytes"])
        kernels = {"operator": operator, "bytes": size}
        found["elementwise"] = table("elementwise", kernels, formulas.elementwise, "bytes", power=False)
        op, ranks, size = rows(["all_reduce", "all_gather"], [2, 4, 8], GRID["bytes"])
        messages = {"op": op, "ranks": ranks, "backend": same(op, "nccl"), "bytes": size}
        found["collective"] = table("collective", messages, formulas.message, "bytes", "ranks", power=False)
        kept = {kind: found[kind] for kind in found if kind not in leave_out}
        about = Provenance(gpu="Formula 1", source="these tests", licence="none", hardware="h100", grid="powers of 2")
        return TableSet(about, kept, "made up")

    return build


@pytest.fixture(scope="session")
def kernel_db() -> Path:
    """The kernel tables of SERVECAST_DATA; tests that need them are skipped without."""
    folder = Path(os.environ.get("SERVECAST_DATA", "")) / "kernel-db"
    if not os.environ.get("SERVECAST_DATA") or not folder.is_dir():
        pytest.skip("SERVECAST_DATA does not name a folder with kernel-db/")
    pytest.importorskip("pyarrow", reason="the kernel tables are Parquet files")
    return folder
