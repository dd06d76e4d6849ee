"""What a run leaves behind, as columns of 64-bit integers: one row a request, one row a leap."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .core import Request


class End(IntEnum):
    """How a request ended."""

    FINISHED = 0
    REJECTED = 1
    CANCELLED = 2
    FAILED = 3
    UNFINISHED = 4


TINY, SHORT, SMALL, TICKS = (np.dtype(kind) for kind in (np.int8, np.int16, np.int32, np.int64))
_CODES = {1: "b", 2: "h", 4: "i", 8: "q"}  # of `array`, by bytes

COMPONENTS = ("queueing", "prefill", "decode", "interference", "preemption", "transfer", "host")
TIMES = ("arrival", "queued", "scheduled", "first_token", "last_token", "ended")

# What a request itself knows, and what else there is to say when it has ended.
_OWN = {
    **dict.fromkeys(("index", "row"), SMALL),
    **{"attempt": TINY, "replica": SHORT},
    **dict.fromkeys(("prompt_tokens", "generated", "cached_tokens", "preemptions"), SMALL),
    **dict.fromkeys((*TIMES[:-1], *COMPONENTS, "first_interference", "first_host"), TICKS),
}
_own = attrgetter(*_OWN)

REQUEST_COLUMNS = {**_OWN, "end": TINY, "ended": TICKS, "output_tokens": SMALL}

LEAP_COLUMNS = {
    "start": TICKS,  # when its first iteration began
    "base": TICKS,  # of the first iteration
    "slope": TICKS,  # that each further one adds
    "gap": TICKS,  # from the decodes' previous tokens to those of the first iteration
    "iterations": SMALL,
    "decodes": SMALL,  # tokens of running decodes an iteration
    "prefill_tokens": SMALL,  # prompt tokens an iteration
    "prefills": SMALL,  # requests they belong to
    "waiting": SMALL,
    "used_blocks": SMALL,
}

GAP_COLUMNS = {"gap": TICKS, "count": SMALL}

_BUFFER = 1 << 11  # rows collected before they are packed into columns; as tuples they take half a kilobyte each


class Table:
    """Rows of integers, appended one by one and read as columns of their types.

    folder : where the columns are kept, one raw file each, instead of in memory.
    """

    def __init__(self, columns: Mapping[str, np.dtype], folder: Path | None = None) -> None:
        self._types = columns
        self._width = len(columns)
        self._buffer: list[tuple[int, ...]] = []
        self._rows = 0  # packed
        self._folder = None if folder is None else str(folder)
        # Arrays that grow in place: parts to be joined later would need the memory twice.
        self._columns = {name: array(_CODES[kind.itemsize]) for name, kind in columns.items()}
        self._files: dict[str, IO[bytes]] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._open("wb")

    def append(self, row: tuple[int, ...]) -> None:
        """Add a row, one value a column."""
        buffer = self._buffer
        buffer.append(row)
        if len(buffer) >= _BUFFER:
            self._pack()

    def _pack(self) -> None:
        cells = np.fromiter(chain.from_iterable(self._buffer), np.int64).reshape(-1, self._width)
        for i, (name, kind) in enumerate(self._types.items()):
            column = cells[:, i].astype(kind).tobytes()
            if self._files:
                self._files[name].write(column)
            else:
                self._columns[name].frombytes(column)
        self._rows += len(cells)
        self._buffer.clear()

    def __len__(self) -> int:
        return self._rows + len(self._buffer)

    def _open(self, mode: str) -> None:
        assert self._folder is not None
        self._files = {name: open(os.path.join(self._folder, name), mode) for name in self._types}  # noqa: SIM115

    def __getstate__(self) -> dict[str, Any]:
        """For a checkpoint: what is in the files stays there."""
        if self._buffer:
            self._pack()
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        return {**self.__dict__, "_files": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._folder is not None:
            self._open("r+b")
            for name, file in self._files.items():
                file.truncate(self._rows * self._types[name].itemsize)
                file.seek(0, os.SEEK_END)

    def columns(self) -> dict[str, NDArray]:
        """Every column by name, without a copy. Call it when all rows are in: a table that is looked at cannot grow."""
        if self._buffer:
            self._pack()
        if self._folder is None:
            return {name: np.frombuffer(self._columns[name], kind) for name, kind in self._types.items()}
        for file in self._files.values():
            file.flush()
        if not self._rows:
            return {name: np.empty(0, kind) for name, kind in self._types.items()}
        return {name: np.memmap(os.path.join(self._folder, name), kind, "r") for name, kind in self._types.items()}

    def slices(self, rows: int = 1 << 16) -> Iterator[dict[str, NDArray]]:
        """The same, some rows at a time and all as int64, for work that would need several copies of the whole."""
        columns = self.columns()
        for at in range(0, len(self), rows):
            yield {name: column[at : at + rows].astype(np.int64) for name, column in columns.items()}


class Recorder:
    """Collects the rows of a run with so many engines, in files of `folder` if one is given."""

    def __init__(self, engines: int, folder: Path | None = None) -> None:
        def table(columns: Mapping[str, np.dtype], name: str) -> Table:
            return Table(columns, folder and folder / name)

        self.requests = table(REQUEST_COLUMNS, "requests")
        self.leaps = [table(LEAP_COLUMNS, f"leaps-{i}") for i in range(engines)]
        # Gaps of tokens whose predecessor came at another time than their cohort's (members that had just joined):
        # ticks to add and to take out, with how many of them.
        self.odd_gaps = [table(GAP_COLUMNS, f"gaps-{i}") for i in range(engines)]

    def request(self, r: Request, end: End, now: int, output_tokens: int) -> None:
        """Write the row of a request that ended at `now`."""
        self.requests.append((*_own(r), end, now, output_tokens))


def note_odd_gaps(table: Table, gaps: Iterable[int], usual: int, restarts: Iterable[int]) -> None:
    """Of an iteration whose row says `usual` for all `gaps`: those that were others, and those of who was away."""
    for gap in gaps:
        if gap != usual:
            table.append((gap, 1))
            table.append((usual, -1))
    for gap in restarts:
        table.append((gap, 1))
