"""A prefix cache beside which chunks are reused wherever they stand in a prompt."""

from __future__ import annotations

from ..core import Request
from .prefix import PrefixPool


class ReusePool(PrefixPool):
    """A prefix cache whose requests may skip `Request.reused` tokens more; all of them take memory of their own."""

    def _extra(self, request: Request, found: int) -> int:
        return max(0, min(request.reused // self._block_size, (request.target - 1) // self._block_size - found))

    def lookup(self, request: Request, promised: dict[int, int], taken: int = 0) -> tuple[int, int]:
        """See `PrefixPool`; what is reused counts as found and takes free blocks."""
        found, idle = super().lookup(request, promised, taken)
        extra = self._extra(request, found) if request.reused else 0
        return found + extra, idle + extra

    def admit(self, request: Request) -> None:
        """See `PrefixPool`; what is reused counts as computed."""
        super().admit(request)
        if request.reused:
            request.computed += self._extra(request, request.computed // self._block_size) * self._block_size
