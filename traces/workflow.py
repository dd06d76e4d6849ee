"""What a workflow's template says of a call before it runs: the mean length of its stage's answers, and its share of
the work from here to the end along the longest path."""

from __future__ import annotations

import numpy as np

from .columns import Floats
from .table import RequestTable

_PROMPT_WEIGHT = 1 / 200  # work of a prompt token against one of an answer: compute against memory bandwidth, roughly


def expected_output(table: RequestTable) -> Floats:
    """Mean output tokens of each row's request class; of all rows where there is none."""
    return _class_means(table, table.output_tokens.astype(np.float64))


def share_of_work(table: RequestTable) -> Floats:
    """Mean work of each row's stage over that and all that follows it, from 0 to 1."""
    programs = table.programs
    assert programs is not None
    work = _class_means(table, (table.prompt_tokens * _PROMPT_WEIGHT + table.output_tokens).astype(np.float64))
    ahead = np.zeros(len(table))
    children = programs.children()
    left = [len(c) for c in children]
    done = [row for row, n in enumerate(left) if not n]
    for row in done:
        ahead[row] = max((work[child] + ahead[child] for child in children[row]), default=0.0)
        for parent in programs.parents.row(row).tolist():
            left[parent] -= 1
            if not left[parent]:
                done.append(parent)
    return work / (work + ahead)


def _class_means(table: RequestTable, values: Floats) -> Floats:
    if table.request_class is None:
        return np.full(len(values), values.mean())
    codes = table.request_class.codes + 1  # those without a class have number 0
    sums, counts = np.bincount(codes, values), np.bincount(codes)
    means: Floats = np.divide(sums, counts, out=np.zeros(len(sums)), where=counts > 0)
    return means[codes]
