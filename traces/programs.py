"""Programs: agents, conversations and workflows whose next request is born when its parents have finished."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, unknown_name
from .columns import Floats, Ints, Labels


@dataclass(frozen=True)
class ParentRows:
    """For each row of a table the rows that it waits for: row i's are `rows[offsets[i]:offsets[i + 1]]`."""

    offsets: Ints
    rows: Ints

    @classmethod
    def of(cls, lists: Sequence[Sequence[int]]) -> ParentRows:
        """From one list of rows a row."""
        offsets = np.zeros(len(lists) + 1, np.int64)
        np.cumsum([len(some) for some in lists], out=offsets[1:])
        return cls(offsets, np.fromiter((i for some in lists for i in some), np.int64, int(offsets[-1])))

    def row(self, i: int) -> Ints:
        """Row i's parents, a view."""
        return self.rows[self.offsets[i] : self.offsets[i + 1]]

    def take(self, rows: Any) -> ParentRows:
        """The same for some rows (an index array or a mask); parents that are left out are no parents any more."""
        index = np.arange(len(self))[rows]
        place = np.full(len(self), -1)
        place[index] = np.arange(len(index))
        moved = ([int(p) for p in place[self.row(i)] if p >= 0] for i in index.tolist())
        return ParentRows.of(list(moved))

    def __len__(self) -> int:
        return len(self.offsets) - 1


def linked(
    where: str, ids: Sequence[str | None], parents: Sequence[Sequence[str]], gap: Floats, tool: Labels, deadline: Floats
) -> Programs:
    """Programs from the names of each row's parents.

    ids : the name of each row. Raises `InputError` naming `where` and the row.
    """
    rows: dict[str | None, int] = {}
    for i, name in enumerate(ids):
        if name is not None and rows.setdefault(name, i) != i:
            raise InputError(f"{where}: row {i + 1}", f"request_id {name!r} a second time", "a name of its own")
    listed: list[list[int]] = []
    for i, names in enumerate(parents):
        for name in names:
            if name not in rows:
                raise unknown_name(f"{where}: row {i + 1}: parents", "request", name, [n for n in rows if n])
        listed.append([rows[name] for name in names])
    return Programs(ParentRows.of(listed), gap, tool, deadline)


@dataclass(frozen=True)
class Programs:
    """How the rows of a table hang together; a program is the rows of one session.

    parents : the rows that must finish before a row is sent; a row without parents comes at its arrival.
    gap : float64 seconds from the end of the last parent until the row is sent: tool or think time.
    tool : what is called in that gap; no name where a user thinks.
    deadline : float64 seconds from the program's first arrival until all of it is due, inf = never.
    """

    parents: ParentRows
    gap: Floats
    tool: Labels
    deadline: Floats

    def __len__(self) -> int:
        return len(self.gap)

    def contents(self) -> tuple[str | NDArray[Any], ...]:
        """All there is to it, for a fingerprint."""
        return (self.parents.offsets, self.parents.rows, self.gap, self.deadline, *self.tool.contents())

    def take(self, rows: Any) -> Programs:
        """The same for some rows; one whose parents are all left out comes at its arrival."""
        return Programs(self.parents.take(rows), self.gap[rows], self.tool.take(rows), self.deadline[rows])

    def children(self) -> list[list[int]]:
        """Of each row, those that wait for it."""
        found: list[list[int]] = [[] for _ in range(len(self))]
        for i in range(len(self)):
            for parent in self.parents.row(i).tolist():
                found[parent].append(i)
        return found

    def next_tool(self) -> list[int]:
        """Code of the tool that each row's answer calls, -1 = none: it ends its program or answers a user."""
        codes = self.tool.codes.tolist()
        return [next((codes[child] for child in children if codes[child] >= 0), -1) for children in self.children()]


def joined_programs(parts: Sequence[Programs]) -> Programs:
    """The rows of several tables, one after the other."""
    lists: list[list[int]] = []
    for part in parts:
        start = len(lists)
        lists += [(part.parents.row(i) + start).tolist() for i in range(len(part))]
    return Programs(
        ParentRows.of(lists),
        np.concatenate([part.gap for part in parts]),
        Labels.of([name for part in parts for name in part.tool]),
        np.concatenate([part.deadline for part in parts]),
    )


def check_programs(programs: Programs, arrival: Floats, session: Labels | None, where: str) -> None:
    """Raise `InputError` for programs that no run could follow.

    A row without a session, parents in another session, negative gaps, a row that arrives before its parent, cycles.
    """
    if session is None:
        raise InputError(where, "programs without sessions", "a session for every row, the name of its program")

    def refuse(row: int, found: str, expected: str) -> InputError:
        return InputError(f"{where}: row {row + 1}", found, expected)

    for row, (code, gap, due) in enumerate(
        zip(session.codes.tolist(), programs.gap.tolist(), programs.deadline.tolist(), strict=True)
    ):
        if code < 0:
            raise refuse(row, "no session", "the name of its program")
        if not 0 <= gap < np.inf:
            raise refuse(row, f"gap {gap:g} s", "seconds from the end of its parents, 0 or more")
        if not due > 0:
            raise refuse(row, f"deadline {due:g} s", "seconds from the program's arrival, above 0")
        for parent in programs.parents.row(row).tolist():
            if session.codes[parent] != code:
                raise refuse(row, f"a parent of another session (row {parent + 1})", "parents of its own program")
            if arrival[parent] > arrival[row]:
                found = f"arrival {arrival[row]:g} s, before its parent's {arrival[parent]:g} s (row {parent + 1})"
                raise refuse(row, found, "a turn after its parents")
    _check_order(programs, refuse)


def _check_order(programs: Programs, refuse: Callable[[int, str, str], InputError]) -> None:
    """Kahn's algorithm: whoever is never free of parents stands on a cycle, or behind one."""
    left = np.diff(programs.parents.offsets)
    children = programs.children()
    free = np.flatnonzero(left == 0).tolist()
    for row in free:
        for child in children[row]:
            left[child] -= 1
            if not left[child]:
                free.append(child)
    if len(free) < len(programs):
        row = int(np.flatnonzero(left > 0)[0])
        raise refuse(row, "it waits for itself: its parents form a cycle", "parents that can finish first")
