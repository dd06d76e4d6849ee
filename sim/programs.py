"""The clients of programs: each request is sent when its parents have finished and its tool has answered."""

from __future__ import annotations

from functools import partial

import numpy as np
from simpy.events import Event

from ..costmodels.base import ticks
from ..traces.table import RequestTable
from ..traces.workflow import expected_output, share_of_work
from .clients import as_ticks
from .cluster.cluster import Cluster
from .core import Request
from .events import ARRIVALS, Clock, Moment
from .program import Program
from .records import End


class ProgramClients:
    """Sends the roots of programs at their arrivals and every other row `gap` seconds after its last parent's end.

    A request that does not finish ends its program: what waits for it, directly or not, is never sent.
    """

    def __init__(self, env: Clock, cluster: Cluster, table: RequestTable) -> None:
        programs, session = table.programs, table.session
        assert programs is not None and session is not None
        self.env = env
        self.cluster = cluster
        self._arrival = as_ticks(table.arrival).tolist()
        self._gap = as_ticks(programs.gap).tolist()
        self._children = programs.children()
        self._left = np.diff(programs.parents.offsets).tolist()  # parents that have not finished; -1 = never sent
        self._roots = [row for row, left in enumerate(self._left) if not left][::-1]  # a stack, the next one on top
        self._session = session.codes.tolist()
        self._due = [ticks(due) if due < np.inf else -1 for due in programs.deadline.tolist()]
        self._expected, self._share = expected_output(table).tolist(), share_of_work(table).tolist()
        self._programs: dict[int, Program] = {}
        cluster.enrol = self._enrol
        cluster.on_end.append(self._ended)
        self._arm()

    def _arm(self) -> None:
        if self._roots:
            Moment(self.env, self._arrival[self._roots[-1]], ARRIVALS, self._arrive)

    def _arrive(self, _: Event) -> None:
        self.cluster.submit(self._roots.pop())
        self._arm()

    def _enrol(self, request: Request) -> None:
        """A request is sent now: say which program it belongs to."""
        session = self._session[request.row]
        program = self._programs.get(session)
        if program is None:
            due = self._due[request.row]
            now = self.env.now
            program = self._programs[session] = Program(session, now, now + due if due >= 0 else -1)
        request.program = program
        request.served, request.waited, request.path = program.served, program.waited, program.path
        request.expected = self._expected[request.row]
        if program.due >= 0:
            now = self.env.now
            request.due = now + max(0, int((program.due - now) * self._share[request.row]))

    def _send(self, row: int, _: Event) -> None:
        self.cluster.submit(row)

    def _ended(self, request: Request, end: End, now: int) -> None:
        program = request.program
        assert program is not None
        if end == End.FINISHED:
            program.turns += 1
            program.waited += request.queueing
            own = request.prefill + request.decode + request.interference + request.host
            program.served += own
            program.path = max(program.path, request.path + own)
            for child in self._children[request.row]:
                if self._left[child] > 0:
                    self._left[child] -= 1
                    if not self._left[child]:
                        Moment(self.env, now + self._gap[child], ARRIVALS, partial(self._send, child))
        elif not request.retried:
            self._abandon(request.row)

    def _abandon(self, row: int) -> None:
        lost = [row]
        for parent in lost:
            for child in self._children[parent]:
                if self._left[child] > 0:
                    self._left[child] = -1
                    self.cluster.offered -= 1
                    lost.append(child)
