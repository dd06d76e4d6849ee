"""A linear program that grows by columns and rows between solves, each of which starts from the last one's basis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from .instance import Floats

_MOST_CUTS = 30  # that are added at once

Terms = list[tuple[int, float]]  # (column or row, factor); what is named twice adds up


@dataclass(frozen=True)
class Solved:
    """An optimum: the objective, values by column, and by row the change of the objective for one more on its right."""

    value: float
    columns: Floats
    duals: Floats


class Linear:
    """Maximise one column, by HiGHS; columns are never negative."""

    def __init__(self) -> None:
        import highspy

        self._highs = highspy.Highs()
        self._highs.silent()
        self._highs.setOptionValue("threads", 1)
        self._highs.changeObjectiveSense(highspy.ObjSense.kMaximize)
        self._optimal = highspy.HighsModelStatus.kOptimal
        self._columns = self._rows = 0

    def column(self, high: float = inf, terms: Iterable[tuple[int, float]] = (), objective: float = 0.0) -> int:
        """A new variable up to `high`, with its factors by row; returns its number."""
        rows, factors = _merged(terms)
        self._highs.addCol(objective, 0.0, high, len(rows), rows, factors)
        self._columns += 1
        return self._columns - 1

    def row(self, terms: Iterable[tuple[int, float]], low: float = -inf, high: float = 0.0) -> int:
        """A new constraint low <= sum of factor x column <= high; returns its number."""
        columns, factors = _merged(terms)
        self._highs.addRow(low, high, len(columns), columns, factors)
        self._rows += 1
        return self._rows - 1

    def solve(self) -> Solved | None:
        """The optimum, or None where HiGHS finds none."""
        self._highs.run()
        if self._highs.getModelStatus() != self._optimal:
            return None
        found = self._highs.getSolution()
        value = float(self._highs.getInfo().objective_function_value)
        return Solved(value, np.array(found.col_value), np.array(found.row_dual))


class Cuts:
    """Rows, at most 0 each, that go into a program only where its solution violates them."""

    def __init__(self, rows: Sequence[Terms]) -> None:
        self._rows = [_merged(row) for row in rows]
        self._columns, self._factors = (np.concatenate(parts) for parts in zip(_merged([]), *self._rows, strict=True))
        self._starts = np.cumsum([0, *(len(columns) for columns, _ in self._rows[:-1])])
        self._left = np.ones(len(rows), bool)

    def add_violated(self, program: Linear, values: Floats, tolerance: float = 1e-7) -> bool:
        """Add the most violated rows; False where none is."""
        if not self._rows:
            return False
        excess = np.add.reduceat(self._factors * values[self._columns], self._starts) * self._left
        worst = np.argsort(-excess, kind="stable")[:_MOST_CUTS]
        chosen = [int(row) for row in worst if excess[row] > tolerance]
        for row in chosen:
            self._left[row] = False
            program.row(zip(*(part.tolist() for part in self._rows[row]), strict=True))
        return bool(chosen)


def _merged(terms: Iterable[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    summed: dict[int, float] = {}
    for at, factor in terms:
        summed[at] = summed.get(at, 0.0) + factor
    return np.array(list(summed), np.int32), np.array(list(summed.values()), float)
