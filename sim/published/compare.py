"""Errors of predictions against measurements, per engine, beside another tool's; and the fit of engine constants.

Rows are split in two halves by a hash of their ids: constants are fitted on one and errors reported on the other.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

from ...errors import InputError
from .predict import Prediction
from .rows import BenchRow


def held_back(row_id: str) -> bool:
    """Whether a row is in the half that is reported, not fitted."""
    return hashlib.sha256(row_id.encode()).digest()[0] % 2 == 1


@dataclass(frozen=True)
class Errors:
    """Median and mean of |predicted / measured - 1|, and the median of predicted / measured - 1."""

    rows: int
    ttft: float
    ttft_mean: float
    ttft_bias: float
    tpot: float
    tpot_mean: float
    tpot_bias: float


def errors(pairs: Sequence[tuple[BenchRow, tuple[float, float]]]) -> Errors | None:
    """Over rows with a prediction (TTFT, TPOT); None where there are none."""
    if not pairs:
        return None
    ttft = [predicted[0] / row.ttft - 1 for row, predicted in pairs]
    tpot = [predicted[1] / row.tpot - 1 for row, predicted in pairs]

    def figures(values: list[float]) -> tuple[float, float, float]:
        sizes = [abs(value) for value in values]
        return median(sizes), mean(sizes), median(values)

    return Errors(len(pairs), *figures(ttft), *figures(tpot))


@dataclass(frozen=True)
class Comparison:
    """One engine (or all).

    rows, covered : measurements, and those that count. held : errors on the half not fitted. everything : on all that
    count. ours, theirs : on the rows of the held-back half that the other tool predicted; ours_all, theirs_all : on all
    of its rows.
    """

    engine: str
    rows: int
    covered: int
    held: Errors | None
    everything: Errors | None
    ours: Errors | None
    theirs: Errors | None
    ours_all: Errors | None
    theirs_all: Errors | None


def compare(
    engine: str, rows: Sequence[BenchRow], predictions: Mapping[str, Prediction],
    others: Mapping[str, tuple[float, float]],
) -> Comparison:  # fmt: skip
    """`others` : TTFT and TPOT in seconds that the other tool says, by row id."""
    covered = [row for row in rows if predictions[row.id].covered]
    held = [row for row in covered if held_back(row.id)]

    def own(some: Sequence[BenchRow]) -> Errors | None:
        return errors([(row, (predictions[row.id].ttft, predictions[row.id].tpot)) for row in some])

    def other(some: Sequence[BenchRow]) -> Errors | None:
        return errors([(row, others[row.id]) for row in some])

    shared = [row for row in covered if row.id in others]
    shared_held = [row for row in held if row.id in others]
    return Comparison(
        engine, len(rows), len(covered), own(held), own(covered),
        own(shared_held), other(shared_held), own(shared), other(shared),
    )  # fmt: skip


def read_others(path: Path) -> dict[str, tuple[float, float]]:
    """Another tool's predictions by id: the columns that end in `predicted_ttft_ms` and `predicted_tpot_ms`."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        found = {
            metric: next((name for name in reader.fieldnames or () if name.endswith(f"predicted_{metric}_ms")), None)
            for metric in ("ttft", "tpot")
        }
        if None in found.values():
            raise InputError(str(path), "no predictions", "columns *predicted_ttft_ms and *predicted_tpot_ms")
        others = {}
        for cells in reader:
            texts = [cells[str(name)] for name in found.values()]
            if all(texts):
                others[cells["id"]] = (float(texts[0]) / 1e3, float(texts[1]) / 1e3)
        return others


def log_errors(rows: Sequence[BenchRow], predictions: Sequence[Prediction]) -> list[float]:
    """log(predicted / measured) of TPOT and, at a quarter of the weight, of TTFT, for a fit."""
    residuals = []
    for row, predicted in zip(rows, predictions, strict=True):
        residuals.append(math.log(predicted.tpot / row.tpot))
        residuals.append(0.25 * math.log(predicted.ttft / row.ttft))
    return residuals
