"""A cohort: decoding requests that each get exactly one token whenever it runs, advanced as a group.

Everything is keyed by the cohort's own counter `runs`, so that a run of k iterations costs the same whatever the
number of members: nobody is touched but those who finish.
"""

from __future__ import annotations

from heapq import heappop, heappush

from ..core import Limits, Request


class Cohort:
    """Decoding requests of one rank that run together.

    A member's context is `base + runs` and needs a new block in the run where that is a multiple of the block size;
    `ring` counts members by `base` modulo the block size. `interference` and `host` are the ticks by which its
    members' tokens came later than their own decoding alone would have taken, since the cohort began.
    """

    __slots__ = (
        "block_size", "blocks", "context_sum", "count", "ends", "grows", "heap", "highest", "host", "interference",
        "late", "lowest", "members", "ring", "runs",
    )  # fmt: skip

    def __init__(self, limits: Limits, grows: bool) -> None:
        self.block_size = block_size = limits.block_size if grows else 1
        self.blocks = limits.blocks
        self.grows = grows
        self.members: dict[Request, None] = {}  # a set in order of joining, so that runs are reproducible
        self.count = 0
        self.context_sum = 0  # tokens in the KV cache, all members
        self.lowest: int | None = None  # least and greatest `base`, None = to be found again
        self.highest: int | None = None
        self.runs = 0
        self.ring = [0] * block_size
        self.heap: list[tuple[int, int, Request]] = []  # (finish, index, member); stale entries are skipped
        self.ends = 0  # when it last ran to
        self.interference = 0
        self.host = 0
        self.late: dict[int, int] = {}  # token time -> members whose last token came then and not at `ends`

    def join(self, request: Request, context: int, remaining: int, token_time: int, since: int = -1) -> None:
        """Take in a request with `context` tokens in the KV cache and `remaining` tokens to come.

        Its last token came at `token_time`; its time counts as decoding from then, or from `since` if it was away.
        """
        runs = self.runs
        base = context - runs
        if not self.count:
            self.ends = token_time
            self.late.clear()
            self.lowest = self.highest = base
        else:
            if self.lowest is not None and base < self.lowest:
                self.lowest = base
            if self.highest is not None and base > self.highest:
                self.highest = base
            if token_time != self.ends:
                self.late[token_time] = self.late.get(token_time, 0) + 1
        request.cohort = self
        request.base = base
        request.token_base = request.generated - runs
        request.finish = finish = runs + remaining
        request.since = since = token_time if since < 0 else since
        # What passed until then is not its loss: it was not here yet.
        request.interference_base = self.interference + since - self.ends
        request.host_base = self.host
        request.last_token = token_time
        self.members[request] = None
        self.count += 1
        self.context_sum += context
        if self.grows:
            self.ring[base % self.block_size] += 1
        heappush(self.heap, (finish, request.index, request))

    def leave(self, request: Request) -> None:
        """Let a member go and settle its books. Its last token came when the cohort last ran, or before it joined."""
        base = request.base
        del self.members[request]
        self.count -= 1
        context = base + self.runs
        self.context_sum -= context
        if base == self.lowest:
            self.lowest = None
        if base == self.highest:
            self.highest = None
        if self.grows:
            self.ring[base % self.block_size] -= 1
        request.cohort = None
        generated = request.token_base + self.runs
        if generated != request.generated:
            decoding = self.ends - request.since
            interference = self.interference - request.interference_base
            host = self.host - request.host_base
            request.decode += decoding - interference - host
            request.interference += interference
            request.host += host
            request.generated = generated
            request.last_token = self.ends
        elif request.last_token in self.late:
            self.late[request.last_token] -= 1
            if not self.late[request.last_token]:
                del self.late[request.last_token]
        if self.grows:
            request.blocks = self.blocks(context)
        request.computed = context

    def next_finish(self) -> int:
        """Runs until the next member has its last token. At least one member."""
        heap = self.heap
        while True:
            finish, _, request = heap[0]
            if request.cohort is self and request.finish == finish:
                return finish - self.runs
            heappop(heap)

    def finished(self) -> list[Request]:
        """The members whose last token came with the last run, in order of their index; they have left."""
        done: list[Request] = []
        heap, runs = self.heap, self.runs
        while heap and heap[0][0] <= runs:
            _, _, request = heappop(heap)
            if request.cohort is self and request.finish == runs:
                self.leave(request)
                done.append(request)
        return done

    def demand(self, runs: int = 1) -> int:
        """Blocks that the next `runs` runs take."""
        if runs == 1:
            return self.ring[-self.runs % self.block_size]
        cycles, rest = divmod(runs, self.block_size)
        need = cycles * self.count if cycles and self.grows else 0
        if rest:
            # Run i takes ring[-(runs + i) % size]: walk the ring downwards from its present place.
            high = -self.runs % self.block_size
            low = high - rest + 1
            ring = self.ring
            need += sum(ring[low : high + 1]) if low >= 0 else sum(ring[: high + 1]) + sum(ring[low:])
        return need

    def extremes(self) -> tuple[int, int]:
        """Least and greatest context. At least one member. Searched for only when an extreme one has left."""
        if self.lowest is None:
            self.lowest = min(r.base for r in self.members)
        if self.highest is None:
            self.highest = max(r.base for r in self.members)
        return self.lowest + self.runs, self.highest + self.runs

    def run(self, k: int, start: int, total: int, pure: int, host: int) -> None:
        """Credit k iterations that began at `start` and took `total` ticks.

        pure : accelerator ticks that the same decodes would have taken with nothing beside them.
        host : host ticks of the k iterations.
        """
        self.runs += k
        self.context_sum += k * self.count
        self.interference += start - self.ends + total - pure - host
        self.host += host
        self.ends = start + total
        if self.late:
            self.late.clear()
