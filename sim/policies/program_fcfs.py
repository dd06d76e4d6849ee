"""Queue policy: first come, first served by program (Continuum, arXiv 2511.02230): the preempted, then requests whose
program's KV cache was pinned when they came, then by the arrival of the program."""

from __future__ import annotations

from dataclasses import dataclass

from ..core import Request


@dataclass
class ProgramFcfs:
    """A request without a program counts as one of its own."""

    fifo = False

    def key(self, request: Request) -> tuple[float, ...]:
        """Smaller runs first."""
        program = request.program
        return (not request.preemptions, not request.kept, program.arrival if program else request.arrival)
