"""What became of each program: completion time, turns, queueing between them, what was cached and what recomputed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...costmodels.base import TICKS_PER_SECOND
from ...traces.table import RequestTable
from ..records import End
from ..run import Run
from .metrics import latency_statistics

COLUMNS = (
    "program", "program_class", "status", "calls", "finished_calls", "prompt_tokens", "output_tokens", "cached_tokens",
    "recomputed_tokens", "preemptions", "arrival_s", "ended_s", "jct_s", "queueing_s", "queueing_between_s", "gap_s",
    "deadline_s",
)  # fmt: skip


def program_rows(run: Run) -> dict[str, NDArray[Any]]:
    """One row a program that was begun, in order of its name in the trace; columns as `COLUMNS`, times in seconds.

    status : "finished" when every request of it did. jct : job completion time, first arrival to last end, nan unless
    finished. queueing_between : of the requests that had parents. gap : tool and think time of the requests sent.
    recomputed_tokens : prompt tokens that a parent had in its KV cache, in full blocks, and that were computed again.
    """
    table = run.table
    assert table.session is not None and table.programs is not None
    c = run.recorder.requests.columns()
    rows = c["row"]
    owner = table.session.codes[rows]
    size = len(table.session.names)
    turns = np.diff(table.programs.parents.offsets)[rows] > 0
    finished = c["end"] == End.FINISHED

    def total(values: NDArray[Any]) -> NDArray[Any]:
        return np.bincount(owner, values, size)

    first, last = np.full(size, np.inf), np.zeros(size)
    np.minimum.at(first, owner, c["arrival"] / TICKS_PER_SECOND)
    np.maximum.at(last, owner, c["ended"] / TICKS_PER_SECOND)
    calls, done = np.bincount(table.session.codes, minlength=size), total(finished).astype(np.int64)
    lost = np.maximum(0, _reusable(table, run.deployments[0].limits.block_size)[rows] - c["cached_tokens"])
    lost[c["scheduled"] < 0] = 0
    of_first = np.full(size, -1)
    of_first[table.session.codes[::-1]] = np.arange(len(table))[::-1]
    columns: dict[str, NDArray[Any]] = {
        "program": np.array(table.session.names, object),
        "program_class": _class_of(table, of_first),
        "status": np.where(done == calls, "finished", np.where(_alive(c, owner, size), "unfinished", "abandoned")),
        "calls": calls,
        "finished_calls": done,
        **{name: total(c[name]).astype(np.int64) for name in ("prompt_tokens", "output_tokens", "cached_tokens")},
        "recomputed_tokens": total(lost).astype(np.int64),
        "preemptions": total(c["preemptions"]).astype(np.int64),
        "arrival_s": first,
        "ended_s": last,
        "jct_s": np.where(done == calls, last - first, np.nan),
        "queueing_s": total(c["queueing"]) / TICKS_PER_SECOND,
        "queueing_between_s": total(np.where(turns, c["queueing"], 0)) / TICKS_PER_SECOND,
        "gap_s": total(np.where(turns, table.programs.gap[rows], 0.0)),
        "deadline_s": table.programs.deadline[of_first],
    }
    begun = np.isfinite(first)
    return {name: column[begun] for name, column in columns.items()}


def _alive(c: dict[str, NDArray[Any]], owner: NDArray[Any], size: int) -> NDArray[np.bool_]:
    alive = np.zeros(size, bool)
    alive[owner[c["end"] == End.UNFINISHED]] = True
    return alive


def _class_of(table: RequestTable, first: NDArray[Any]) -> NDArray[Any]:
    """The class of a program's first request; of a stage "sql/extract", the part before the slash."""
    if table.request_class is None:
        return np.full(len(first), "", object)
    names = np.array([name.partition("/")[0] for name in table.request_class.names] + [""], object)
    return names[table.request_class.codes[first]]


def _reusable(table: RequestTable, block_size: int) -> NDArray[np.int64]:
    """Prompt tokens of each row that are in the context of a parent, in full blocks of the engine."""
    found = np.zeros(len(table), np.int64)
    blocks, programs = table.blocks, table.programs
    if blocks is None or programs is None:
        return found
    for row in range(len(table)):
        mine = blocks.row(row)
        for parent in programs.parents.row(row).tolist():
            theirs = blocks.row(parent)
            both = min(len(mine), len(theirs))
            same = mine[:both] == theirs[:both]
            common = both if same.all() else int(np.argmin(same))
            # The last token of an answer is never computed, and the last one of a prompt always.
            context = int(table.prompt_tokens[parent] + table.output_tokens[parent]) - 1
            tokens = min(common * blocks.size, context, int(table.prompt_tokens[row]) - 1)
            found[row] = max(found[row], tokens // block_size * block_size)
    return found


def program_figures(run: Run) -> dict[str, Any]:
    """The `programs` block of a report; JCT and the sums over turns are of finished programs."""
    c = program_rows(run)
    status, n = c["status"], len(c["status"])
    done = status == "finished"
    due = np.isfinite(c["deadline_s"])
    met = done & (c["jct_s"] <= c["deadline_s"])
    prompt = int(c["prompt_tokens"].sum())
    return {
        "begun": n,
        "finished": int(done.sum()),
        "abandoned": int((status == "abandoned").sum()),
        "calls_mean": float(c["calls"].mean()) if n else None,
        **latency_statistics("jct", c["jct_s"][done]),
        **latency_statistics("queueing_between", c["queueing_between_s"][done]),
        "mean_gap_ms": float(c["gap_s"][done].mean()) * 1e3 if done.any() else None,
        "cached_share": int(c["cached_tokens"].sum()) / prompt if prompt else None,
        "recomputed_share": int(c["recomputed_tokens"].sum()) / prompt if prompt else None,
        "deadlines_met_share": float(met[due].mean()) if due.any() else None,
    }
