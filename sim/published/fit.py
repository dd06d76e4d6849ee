"""Fits an engine's host constants to one half of the rows of published measurements."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .compare import held_back, log_errors
from .predict import Constants, predict_all
from .rows import BenchRow, left_out

# By preset, from a start that is of the right order; a fit moves each by factors.
_HIDDEN = {"hidden_host_seconds": 2e-3, "hidden_host_seconds_per_sequence": 50e-6}
STARTS: dict[str, dict[str, float]] = {
    "vllm-0.12": {"host_seconds": 1e-3, "host_seconds_per_sequence": 40e-6},
    "vllm-0.11-async": {"host_seconds": 0.2e-3, "host_seconds_per_sequence": 10e-6},
    "trtllm-1.0": {"host_seconds": 0.1e-3, "host_seconds_per_sequence": 5e-6, **_HIDDEN, "kernel_seconds": 80e-6},
    "sglang-0.5": {"host_seconds": 0.2e-3, "host_seconds_per_sequence": 10e-6},
}
_SPAN = 8.0  # a constant stays within this factor of its start
_STEP = 0.2  # of a factor, for derivatives: large against the noise of who happens to finish together


def fit(
    preset: str, rows: Sequence[BenchRow], hardware: str, cost: str, processes: int,
    progress: Callable[[dict[str, float]], None] | None = None,
) -> dict[str, float]:  # fmt: skip
    """The constants of a preset that bring log(predicted / measured) of TPOT and TTFT closest to 0 (robust least
    squares) over its rows that are not held back and that count with the constants to start from."""
    from scipy.optimize import least_squares

    start = STARTS[preset]
    chosen = [row for row in rows if not held_back(row.id) and left_out(row) is None]
    first = predict_all(chosen, hardware, cost, {preset: start}, processes)
    chosen = [row for row, predicted in zip(chosen, first, strict=True) if predicted.covered]

    def constants(factors: np.ndarray) -> dict[str, float]:  # factors : 1 + log of each; steps are relative to them
        values = np.array(list(start.values())) * np.exp(factors - 1)
        return {name: float(value) for name, value in zip(start, values, strict=True)}

    def residuals(factors: np.ndarray) -> list[float]:
        now = constants(factors)
        if progress:
            progress(now)
        named: Constants = {preset: now}
        return log_errors(chosen, predict_all(chosen, hardware, cost, named, processes))

    limit = np.log(_SPAN)
    found = least_squares(
        residuals, np.ones(len(start)), bounds=(1 - limit, 1 + limit), loss="soft_l1", f_scale=0.1, diff_step=_STEP,
        x_scale=1.0, max_nfev=8, xtol=0.02, ftol=0.005,
    )  # fmt: skip
    return constants(found.x)
