"""KV blocks that a request owns on an engine where it is not scheduled: before it comes, or after it has gone."""

from __future__ import annotations

from typing import Any

from ..core import Request


class Claim:
    """Blocks on `engine`, in the name of a stand-in, so that the request itself can own others elsewhere.

    Made, changed and released at iteration boundaries of the engine only.
    """

    __slots__ = ("engine", "epoch", "keeper")

    def __init__(self, engine: Any, keeper: Request) -> None:
        self.engine = engine
        self.keeper = keeper
        self.epoch = engine.rank.epoch
        engine.rank.claimed += keeper.blocks

    @classmethod
    def keep(cls, engine: Any, request: Request) -> Claim:
        """What a request holds on an engine that has surrendered it; the request then holds nothing."""
        keeper = _stand_in(request)
        keeper.blocks, keeper.computed, keeper.holding = request.blocks, request.computed, request.holding
        request.blocks, request.holding = 0, None
        return cls(engine, keeper)

    @classmethod
    def reserve(cls, engine: Any, request: Request, tokens: int) -> Claim | None:
        """Room for a request with `tokens` tokens in its KV cache, or None if there is none now. What the engine's
        prefix cache has of them is used: `found` tokens."""
        rank = engine.rank
        keeper = _stand_in(request)
        keeper.target = tokens
        take, need = rank.kv.admission(keeper, tokens, rank)
        if not rank.running and not rank.claimed:
            need = take  # nothing is left to wait for
        found, idle = rank.lookup(keeper, {}) if rank.caching else (0, 0)
        if need - found + idle > rank.pool.free:
            return None
        keeper.blocks = take
        rank.pool.admit(keeper)
        return cls(engine, keeper)

    @property
    def found(self) -> int:
        """Tokens of a reservation that were in the engine's prefix cache."""
        return self.keeper.computed

    def extend(self, tokens: int) -> bool:
        """Make room for `tokens` tokens in all; False if there is none."""
        rank = self.engine.rank
        more = rank.limits.blocks(tokens) - self.keeper.blocks
        if more > rank.pool.free:
            return False
        if more > 0:
            rank.pool.take(more)
            self.keeper.blocks += more
            rank.claimed += more
        return True

    def pass_to(self, request: Request) -> None:
        """Hand the blocks, less those beyond its tokens, to the request, which is about to be scheduled here."""
        rank, keeper = self.engine.rank, self.keeper
        rank.claimed -= keeper.blocks
        self._trim(max(0, keeper.blocks - rank.limits.blocks(request.computed)) if rank.kv.grows else 0)
        rank.pool.cover(keeper, request.computed)
        request.blocks, request.holding = keeper.blocks, keeper.holding

    def _trim(self, blocks: int) -> None:
        if blocks:
            spare = _stand_in(self.keeper)
            spare.blocks = blocks
            self.keeper.blocks -= blocks
            self.engine.rank.pool.release(spare)

    def release(self) -> None:
        """Give the blocks back, unless they were lost with everything else."""
        rank = self.engine.rank
        if self.epoch != rank.epoch:
            return
        rank.claimed -= self.keeper.blocks
        rank.pool.release(self.keeper)

    def release_soon(self) -> None:
        """The same at the engine's next boundary; for those who speak from outside."""
        self.engine.at_boundary(self._released)

    def _released(self, _: int) -> bool:
        self.release()
        return True


def _stand_in(request: Request) -> Request:
    return Request(request.index, request.row, request.arrival, request.prompt_tokens)
