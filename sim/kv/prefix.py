"""KV memory with prefix caching, as vLLM v1 has it: chained blocks, reference counts, least recently used first.

Source: vllm-project/vllm `v1/core/{kv_cache_manager,block_pool}.py` (003df296). Freed blocks stay cached until someone
needs their memory; a request frees its blocks from the last to the first, so that tails go before heads.

What vLLM does block by block is done here by runs: all blocks of one prefix id, and all blocks that only one request
can ever want, live and die together, tail first. That is coarser than vLLM in three places, by a block or two a
request: blocks that two requests compute at the same time are found again once, not twice; a prompt that is cached to
its last token keeps its whole last run alive beside the copy of the last block that it computes; and blocks of
generated tokens are found by their own request after a preemption, and by others once it has ended and only where the
trace's ids go on over answers (`PrefixBlocks.scope`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ...errors import InputError
from ...traces.columns import PrefixBlocks
from ..core import Request
from .freelist import AgeList, Run, WorthList
from .pool import BlockPool

Worth = Callable[[int, int, float], float]


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
    worth : of a chain, see `EvictionPolicy`; None = least recently used first.
    """

    __slots__ = ("_block_size", "_idle", "_ids", "_index", "_worth", "evicted")

    caching = True

    def __init__(self, total: int, block_size: int, ids: PrefixBlocks | None, worth: Worth | None = None) -> None:
        super().__init__(total)
        if ids is not None and max(ids.size, block_size) % min(ids.size, block_size):
            found = f"{block_size} tokens, where the trace's prefix blocks have {ids.size}"
            raise InputError("block_size", found, "a multiple or a divisor of that")
        self._block_size = block_size
        self._ids = ids
        self._worth = worth
        self.evicted: list[tuple[int, int]] | None = None  # (key, blocks) in order, where somebody collects them
        self.clear()

    def clear(self) -> None:
        """Everything is lost."""
        self.free = self.total
        self._index: dict[int, Run] = {}
        self._idle: AgeList | WorthList = WorthList() if self._worth else AgeList()
        self._idle.append_forgotten(self.total)

    @property
    def block_size(self) -> int:
        """Tokens of a block."""
        return self._block_size

    def free_runs(self) -> Iterator[Run]:
        """The free list, in the order of eviction."""
        return iter(self._idle)

    def take(self, blocks: int) -> None:
        """Hand out those that go first; what they held is forgotten."""
        self.free -= blocks
        if self.free < self.low:
            self.low = self.free
            assert self.free >= 0, f"{-self.free} KV blocks short"
        while blocks:
            oldest = self._idle.first()
            if oldest.cached > blocks:
                oldest.cached -= blocks
                return
            blocks -= oldest.cached
            oldest.cached = 0
            self._idle.evict(oldest)
            if oldest.key is not None:
                del self._index[oldest.key]
                if self.evicted is not None:
                    self.evicted.append((oldest.key, oldest.size))

    # -- finding -------------------------------------------------------------------------------------------------

    def _holding(self, request: Request) -> Holding | None:
        """The request's books, opened when it has prefix ids."""
        holding: Holding | None = request.holding
        if holding is None and self._ids is not None:
            ids, size = self._keys(request), self._block_size
            span = max(1, self._ids.size // size)
            total = min(len(ids) * span, request.prompt_tokens // size)
            holding = request.holding = Holding(ids[: -(-total // span)], span, total)
        return holding

    def _keys(self, request: Request) -> list[int]:
        """The ids of a request's row, one for each block of ours or of the trace, whichever is larger."""
        assert self._ids is not None
        ids: list[int] = self._ids.row(request.row).tolist()
        if self._block_size > self._ids.size:  # the id at the end of each block of ours stands for the whole prefix
            step = self._block_size // self._ids.size
            ids = ids[step - 1 :: step]
        return ids

    def lookup(self, request: Request, promised: dict[int, int], taken: int = 0) -> tuple[int, int]:
        """What a waiting request would find: (its blocks in the cache, free blocks that using them takes).

        promised : key -> blocks that requests admitted in the same step are going to cache.
        taken : free blocks that others take in this step before it.
        As in vLLM the last token is always computed, so a prompt that is cached completely lacks its last block.
        """
        holding = self._holding(request)
        if holding is None:
            return 0, 0
        lost = self._lost(taken, promised) if taken else {}
        span = holding.span
        found = idle = 0
        for i, key in enumerate(holding.keys):
            run = self._index.get(key)
            blocks = run.cached - lost.get(run, 0) if run else 0
            if run and not run.holders:
                idle += blocks
            if promised:
                blocks = max(blocks, promised.get(key, 0))
            found += blocks
            if blocks < span and blocks < holding.size(i):
                break
        else:
            if holding.own:
                own = holding.own.cached - lost.get(holding.own, 0)
                found, idle = found + own, idle + own
        return min(found, (request.target - 1) // self._block_size), idle

    def path(self, request: Request) -> list[Run]:
        """The runs of a prompt that are in the cache, from its head to where the next one is missing. O(depth)."""
        found: list[Run] = []
        holding = self._holding(request)
        if holding is None:
            return found
        for i, key in enumerate(holding.keys):
            run = self._index.get(key)
            if run is None or not run.cached:
                break
            found.append(run)
            if run.cached < holding.span and run.cached < holding.size(i):
                break
        return found

    def _lost(self, taken: int, promised: dict[int, int]) -> dict[Run, int]:
        """Blocks by run that handing out `taken` would forget; what others hold by then, as `promised`, stays."""
        lost: dict[Run, int] = {}
        for run in self._idle:
            if taken <= 0:
                break
            if run.key in promised:
                continue
            lost[run] = min(run.cached, taken)
            taken -= run.cached
        return lost

    def promise(self, request: Request, tokens: int, promised: dict[int, int]) -> None:
        """Note what `cover` is going to cache for a request that is admitted with its first `tokens` tokens."""
        holding = self._holding(request)
        if holding is not None:
            blocks, span = min(holding.total, tokens // self._block_size), holding.span
            for i, key in enumerate(holding.keys):
                here = min(span, blocks - i * span)
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
        found, span = 0, holding.span
        for i, key in enumerate(holding.keys):
            run = self._index.get(key)
            if run is None:
                break
            self._hold(run)
            holding.held.append(run)
            holding.last = i
            found += run.cached
            if run.cached < span and run.cached < holding.size(i):
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
            self._idle.remove(run)
            BlockPool.take(self, run.cached)
        run.holders += 1
        run.hits += 1

    def cover(self, request: Request, tokens: int) -> None:
        """The first `tokens` tokens are scheduled: from now on their full blocks can be found, as in vLLM."""
        holding: Holding | None = request.holding
        if holding is None:
            return
        reached, span = min(holding.total, tokens // self._block_size), holding.span
        while holding.covered < reached:
            i, done = divmod(holding.covered, span)
            here = min(span, reached - i * span)
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
            holding.covered = i * span + here

    def release(self, request: Request, preempted: bool = False) -> None:
        """Let go of everything, last blocks first; who was preempted may find its private blocks again."""
        if not preempted:
            self.commit(request)
        holding: Holding | None = request.holding
        if holding is None:
            self.free += request.blocks
            if preempted:
                holding = request.holding = Holding((), 1, 0)
                self._keep_own(holding, request.computed // self._block_size, request.blocks)
            else:
                self._idle.append_forgotten(request.blocks)
            return
        private = request.blocks - holding.shared
        self.free += private
        if preempted and holding.covered == holding.total and not holding.repeats:
            self._keep_own(holding, max(0, request.computed // self._block_size - holding.total), private)
        else:
            self._idle.append_forgotten(private)
        if self._worth:
            self._value(holding, self._worth)
        for run in reversed(holding.held):
            run.holders -= 1
            if not run.holders:
                self._idle.append(run)
                self.free += run.cached
        holding.reset()

    def forget(self, request: Request) -> None:
        """Let go of everything, and of what nobody else uses as if it had never been there."""
        holding: Holding | None = request.holding
        for run in reversed(holding.held if holding else ()):
            if run.holders == 1 and run.key is not None:
                del self._index[run.key]
                run.key, run.size = None, 0
        self.release(request)

    def chain(self, request: Request, tokens: int | None = None) -> list[tuple[int, int]]:
        """(prefix id, blocks) of a request's first `tokens` tokens, by default of all that it has computed."""
        if self._ids is None:
            return []
        blocks = (request.computed if tokens is None else tokens) // self._block_size
        span = max(1, self._ids.size // self._block_size)
        keys = self._keys(request)
        if self._ids.scope == "prompt":
            blocks = min(blocks, request.prompt_tokens // self._block_size)
        return [(key, min(span, blocks - i * span)) for i, key in enumerate(keys) if i * span < blocks]

    def _value(self, holding: Holding, worth: Worth) -> None:
        """Say what each run is worth: no less than what follows it, which is of no use without it."""
        least = 0.0
        for i in reversed(range(len(holding.held))):
            run = holding.held[i]
            tokens = (i * holding.span + run.cached) * self._block_size
            least = run.worth = max(least, worth(run.hits, tokens, self._idle.floor))

    def commit(self, request: Request) -> None:
        """What a request has written can be found by its next turn, where the trace's ids go on beyond prompts."""
        holding: Holding | None = request.holding
        if holding is not None and self._ids is not None and self._ids.scope == "context":
            ids = self._keys(request)
            holding.total = min(len(ids) * holding.span, request.computed // self._block_size)
            holding.keys = ids[: -(-holding.total // holding.span)]
            self.cover(request, request.computed)

    def _keep_own(self, holding: Holding, full: int, private: int) -> None:
        """Free `private` blocks of which the first `full` may be found again by their owner."""
        self._idle.append_forgotten(private - full)
        if full > 0:
            holding.own = Run(None, full, full)
            self._idle.append(holding.own)
