"""Queue policy: shortest job first by predicted output length; the predictor's error is a parameter of the plan."""

from __future__ import annotations

from dataclasses import dataclass

from ..core import Request


@dataclass
class Sjf:
    """Order of `Request.estimate`, which the plan's predictor fills in; ties in order of arrival."""

    fifo = False
    needs_estimate = True

    def key(self, request: Request) -> tuple[float, ...]:
        """Estimate, then arrival."""
        return (request.estimate, request.arrival)
