"""KV memory with prefix caching, as vLLM v1 has it: chained blocks, reference counts, least recently used first.

Source: vllm-project/vllm `v1/core/{kv_cache_manager,block_pool}.py` (003df296). Freed blocks stay cached until someone
needs their memory; a request frees its blocks from the last to the first, so that tails go before heads.

What vLLM does block by block is done here by runs: all blocks of one prefix id, and all blocks that only one request
can ever want, live and die together, tail first. That is coarser than vLLM in three places, by a block or two a
request: blocks that two requests compute at the same time are found again once, not twice; a prompt that is cached to
its last token keeps its whole last run alive beside the copy of the last block that it computes; and blocks of
generated tokens are found by their own request after a preemption, but by nobody else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import InputError
from ..traces.table import PrefixBlocks
from .core import Request
from .kv import BlockPool


class Run:
    """Consecutive blocks of a chain. Where nobody holds them they stand in the free list.

    key : the prefix id, None for blocks that only one request, or nobody, can find.
    size : blocks when all of them are there. cached : how many are, from the first on. holders : requests using them.
    """

    __slots__ = ("cached", "holders", "key", "newer", "older", "size")

    older: Run
    newer: Run

    def __init__(self, key: int | None, size: int, cached: int, holders: int = 0) -> None:
        self.key = key
        self.size = size
        self.cached = cached
        self.holders = holders

    def __reduce__(self) -> tuple[Any, ...]:
        return Run, (self.key, self.size, self.cached, self.holders)


class Holding:
    """What the store knows of one request.

    keys : its prefix ids; each stands for `span` blocks, the last for what is left of `total`.
    covered : blocks of the chain that it has been through. held : the runs it uses, in order of the chain.
    last : index of the key of the last of them. shared : its blocks that belong to them; all its others are private.
    repeats : whether some private blocks repeat what another request cached meanwhile.
    own : after a preemption, the run of its private blocks.
    """

    __slots__ = ("covered", "held", "keys", "last", "own", "repeats", "shared", "span", "total")

    def __init__(self, keys: Sequence[int], span: int, total: int) -> None:
        self.keys = keys
        self.span = span
        self.total = total
        self.own: Run | None = None
        self.reset()

    def reset(self) -> None:
        """It holds nothing."""
        self.held: list[Run] = []
        self.covered = self.shared = 0
        self.last = -1
        self.repeats = False

    def size(self, i: int) -> int:
        """Blocks that key i stands for."""
        return min(self.span, self.total - i * self.span)


class PrefixPool(BlockPool):
    """A `BlockPool` whose freed blocks can be found again, by the prefix ids of the trace.

    ids : the trace's prefix blocks. Their size must divide `block_size`, or the other way round.
    """

    __slots__ = ("_block_size", "_ids", "_index", "_ring")

    caching = True

    def __init__(self, total: int, block_size: int, ids: PrefixBlocks | None) -> None:
        super().__init__(total)
        if ids is not None and max(ids.size, block_size) % min(ids.size, block_size):
            found = f"{block_size} tokens, where the trace's prefix blocks have {ids.size}"
            raise InputError("block_size", found, "a multiple or a divisor of that")
        self._block_size = block_size
        self._ids = ids
        self.clear()

    def clear(self) -> None:
        """Everything is lost."""
        self.free = self.total
        self._index: dict[int, Run] = {}
        self._ring = Run(None, 0, 0)  # the free list: the newest run is older than it, the oldest newer
        self._ring.older = self._ring.newer = self._ring
        self._append(Run(None, 0, self.total))

    def __getstate__(self) -> dict[str, Any]:
        """For a checkpoint: the free list as a list, since a chain of links would be followed link by link."""
        slots = (name for c in type(self).__mro__ for name in getattr(c, "__slots__", ()) if name != "_ring")
        return {**{name: getattr(self, name) for name in slots}, "runs": list(self.free_runs())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        runs = state.pop("runs")
        for name, value in state.items():
            setattr(self, name, value)
        self._ring = Run(None, 0, 0)
        self._ring.older = self._ring.newer = self._ring
        for run in runs:
            self._append(run)

    # -- the free list -------------------------------------------------------------------------------------------

    def _append(self, run: Run) -> None:
        newest = self._ring.older
        run.older, run.newer = newest, self._ring
        newest.newer = self._ring.older = run

    def _append_forgotten(self, blocks: int) -> None:
        """Blocks whose contents nobody will ask for."""
        newest = self._ring.older
        if newest.key is None and not newest.size and newest is not self._ring:
            newest.cached += blocks
        elif blocks:
            self._append(Run(None, 0, blocks))

    def _unlink(self, run: Run) -> None:
        run.older.newer, run.newer.older = run.newer, run.older

    def free_runs(self) -> Iterator[Run]:
        """The free list, oldest first."""
        run = self._ring.newer
        while run is not self._ring:
            yield run
            run = run.newer

    def take(self, blocks: int) -> None:
        """Hand out the least recently used; what they held is forgotten."""
        self.free -= blocks
        if self.free < self.low:
            self.low = self.free
            assert self.free >= 0, f"{-self.free} KV blocks short"
        while blocks:
            oldest = self._ring.newer
            if oldest.cached > blocks:
                oldest.cached -= blocks
                return
            blocks -= oldest.cached
            oldest.cached = 0
            self._unlink(oldest)
            if oldest.key is not None:
                del self._index[oldest.key]

    # -- finding -------------------------------------------------------------------------------------------------

    def _holding(self, request: Request) -> Holding | None:
        """The request's books, opened when it has prefix ids."""
        holding: Holding | None = request.holding
        if holding is None and self._ids is not None:
            ids, size = self._ids.row(request.row).tolist(), self._block_size
            if size > self._ids.size:  # the id at the end of each block of ours stands for the whole prefix
                step = size // self._ids.size
                ids = ids[step - 1 :: step]
            span = max(1, self._ids.size // size)
            total = min(len(ids) * span, request.prompt_tokens // size)
            holding = request.holding = Holding(ids[: -(-total // span)], span, total)
        return holding

    def lookup(self, request: Request, promised: dict[int, int], taken: int = 0) -> tuple[int, int]:
        """What a waiting request would find: (its blocks in the cache, free blocks that using them takes).

        promised : key -> blocks that requests admitted in the same step are going to cache.
        taken : free blocks that others take in this step before it.
        As in vLLM the last token is always computed, so a prompt that is cached completely lacks its last block.
        """
        holding = self._holding(request)
        if holding is None:
            return 0, 0
        lost = self._lost(taken) if taken else {}
        found = idle = 0
        for i, key in enumerate(holding.keys):
            run = self._index.get(key)
            blocks = run.cached - lost.get(run, 0) if run else 0
            if run and not run.holders:
                idle += blocks
            if promised:
                blocks = max(blocks, promised.get(key, 0))
            found += blocks
            if blocks < holding.size(i):
                break
        else:
            if holding.own:
                own = holding.own.cached - lost.get(holding.own, 0)
                found, idle = found + own, idle + own
        return min(found, (request.target - 1) // self._block_size), idle

    def _lost(self, taken: int) -> dict[Run, int]:
        """Blocks by run that handing out `taken` would forget."""
        lost = {}
        run = self._ring.newer
        while taken > 0 and run is not self._ring:
            lost[run] = min(run.cached, taken)
            taken -= run.cached
            run = run.newer
        return lost

    def promise(self, request: Request, tokens: int, promised: dict[int, int]) -> None:
        """Note what `cover` is going to cache for a request that is admitted with its first `tokens` tokens."""
        holding = self._holding(request)
        if holding is not None:
            blocks = tokens // self._block_size
            for i, key in enumerate(holding.keys):
                here = min(holding.size(i), blocks - i * holding.span)
                if here <= 0:
                    break
                promised[key] = max(here, promised.get(key, 0))

    # -- holding -------------------------------------------------------------------------------------------------

    def admit(self, request: Request) -> None:
        """Hold what is cached, take the rest of `request.blocks`, and set `request.computed` to the tokens found."""
        holding = self._holding(request)
        if holding is None:
            self.take(request.blocks)
            return
        limit = (request.target - 1) // self._block_size
        found = 0
        for i, key in enumerate(holding.keys):
            run = self._index.get(key)
            if run is None:
                break
            self._hold(run)
            holding.held.append(run)
            holding.last = i
            found += run.cached
            if run.cached < holding.size(i):
                break
        holding.covered = found
        holding.shared = min(found, limit)
        if found == holding.total and holding.own and holding.own.cached:
            self._hold(holding.own)
            found += holding.own.cached
        holding.own = None
        found = min(found, limit)
        request.computed = found * self._block_size
        self.take(request.blocks - found)

    def _hold(self, run: Run) -> None:
        if not run.holders:
            self._unlink(run)
            BlockPool.take(self, run.cached)
        run.holders += 1

    def cover(self, request: Request, tokens: int) -> None:
        """The first `tokens` tokens are scheduled: from now on their full blocks can be found, as in vLLM."""
        holding: Holding | None = request.holding
        if holding is None:
            return
        reached = min(holding.total, tokens // self._block_size)
        while holding.covered < reached:
            i, done = divmod(holding.covered, holding.span)
            here = min(holding.size(i), reached - i * holding.span)
            key = holding.keys[i]
            run = self._index.get(key)
            if run is None:
                run = self._index[key] = Run(key, holding.size(i), 0, holders=1)
                holding.held.append(run)
                holding.last = i
            if holding.last != i or run.cached > done:
                holding.repeats = True
            if holding.last == i and run.cached < here:
                holding.shared += here - run.cached
                run.cached = here
            holding.covered = i * holding.span + here

    def release(self, request: Request, preempted: bool = False) -> None:
        """Let go of everything, last blocks first; who was preempted may find its private blocks again."""
        holding: Holding | None = request.holding
        if holding is None:
            self.free += request.blocks
            if preempted:
                holding = request.holding = Holding((), 1, 0)
                self._keep_own(holding, request.computed // self._block_size, request.blocks)
            else:
                self._append_forgotten(request.blocks)
            return
        private = request.blocks - holding.shared
        self.free += private
        if preempted and holding.covered == holding.total and not holding.repeats:
            self._keep_own(holding, max(0, request.computed // self._block_size - holding.total), private)
        else:
            self._append_forgotten(private)
        for run in reversed(holding.held):
            run.holders -= 1
            if not run.holders:
                self._append(run)
                self.free += run.cached
        holding.reset()

    def _keep_own(self, holding: Holding, full: int, private: int) -> None:
        """Free `private` blocks of which the first `full` may be found again by their owner."""
        self._append_forgotten(private - full)
        if full > 0:
            holding.own = Run(None, full, full)
            self._append(holding.own)
