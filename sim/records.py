"""What a run leaves behind, as columns of 64-bit integers: one row a request, one row a leap."""

from __future__ import annotations

from array import array
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from .core import Request

Ints = NDArray[np.int64]


class End(IntEnum):
    """How a request ended."""

    FINISHED = 0
    REJECTED = 1
    CANCELLED = 2
    FAILED = 3
    UNFINISHED = 4


REQUEST_COLUMNS = (
    "index", "row", "attempt", "replica", "end", "prompt_tokens", "output_tokens", "generated", "cached_tokens",
    "preemptions", "arrival", "queued", "scheduled", "first_token", "last_token", "ended",
    "queueing", "prefill", "decode", "interference", "preemption", "transfer", "host",
    "first_interference", "first_host",
)  # fmt: skip
COMPONENTS = ("queueing", "prefill", "decode", "interference", "preemption", "transfer", "host")

LEAP_COLUMNS = (
    "start",  # tick at which its first iteration began
    "iterations",
    "base",  # ticks of the first iteration
    "slope",  # ticks that each further one adds
    "decodes",  # tokens of running decodes an iteration
    "gap",  # ticks from the decodes' previous tokens to those of the first iteration
    "prefill_tokens",  # prompt tokens an iteration
    "prefills",  # requests they belong to
    "waiting",
    "used_blocks",
)  # fmt: skip


class Table:
    """Rows of integers, appended one by one and read as columns."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        self.names = columns
        self._cells = array("q")
        self.append = self._cells.extend  # a tuple of one value a column

    def __len__(self) -> int:
        return len(self._cells) // len(self.names)

    def columns(self) -> dict[str, Ints]:
        """Every column by name, as views of one array."""
        cells: Ints = np.frombuffer(self._cells, np.int64) if self._cells else np.empty(0, np.int64)
        cells = cells.reshape(-1, len(self.names))
        return {name: cells[:, i] for i, name in enumerate(self.names)}


class Recorder:
    """Collects the rows of a run."""

    def __init__(self, replicas: int) -> None:
        self.requests = Table(REQUEST_COLUMNS)
        self.leaps = [Table(LEAP_COLUMNS) for _ in range(replicas)]
        # Gaps of tokens whose predecessor came at another time than their cohort's (members that had just joined):
        # ticks to add and to take out, with how many of them.
        self.odd_gaps = [Table(("gap", "count")) for _ in range(replicas)]

    def request(self, r: Request, end: End, now: int, output_tokens: int) -> None:
        """Write the row of a request that ended at `now`."""
        self.requests.append(
            (
                r.index, r.row, r.attempt, r.replica, end, r.prompt_tokens, output_tokens, r.generated,
                r.cached_tokens, r.preemptions, r.arrival, r.queued, r.scheduled, r.first_token, r.last_token, now,
                r.queueing, r.prefill, r.decode, r.interference, r.preemption, r.transfer, r.host,
                r.first_interference, r.first_host,
            )
        )  # fmt: skip
