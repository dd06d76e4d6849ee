"""What a rank and its replica ask of whoever keeps KV caches between turns and brings them back (`keep.pins`)."""

from __future__ import annotations

from typing import Protocol

from ..core import Request, Step


class Keeper(Protocol):
    """Of one rank."""

    def change(self, step: Step) -> bool:
        """A decision is about to be carried out: True if something was done that calls for another one."""
        ...

    def admitted(self, request: Request) -> None:
        """A request has been admitted and holds what it found."""
        ...

    def keep(self, request: Request, now: int) -> bool:
        """A request has ended. True if its blocks are taken care of."""
        ...

    def loadable(self, request: Request) -> tuple[int, float]:
        """Tokens of a prompt that would be brought back, and the predicted seconds; for who asks from outside."""
        ...
