"""The types that engine and policies share: the live request, a policy's decision, what a policy may look at.

Imports nothing at run time, so that the real engine uses the same policies anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from .engine.cohort import Cohort
    from .kv.freelist import Run
    from .program import Program

FOREVER = 1 << 62  # a number of iterations that no run reaches


class Request:
    """A request while it is alive. Its true output length is not here: the engine keeps it to itself.

    Times are ticks, -1 = not yet. The defaults below are class attributes, so that a new request costs four stores.
    """

    # What a policy may look at
    priority = 0  # lower runs first, as in vLLM
    tenant = -1  # code of the trace's label, -1 = none
    session = -1  # likewise
    program: Program | None = None
    adapter = -1  # number of its LoRA adapter, or of its model where models share layers; -1 = none
    served = 0  # ticks that its program had run when it was sent,
    waited = 0  # and queued
    path = 0  # and the longest chain of its requests had run
    due = -1  # when this call is to be done for its program to keep its deadline, -1 = never
    expected = 0.0  # mean output tokens of its kind, where the trace has programs
    kept = False  # its program's KV cache was pinned where it was sent
    reused = 0  # prompt tokens beyond the prefix cache that need not be computed
    loading = 0  # ticks that its KV cache took to come from below the device
    queued = -1  # when the engine took it in: the first iteration boundary after `arrival`
    scheduled = -1  # when it first ran
    first_token = -1
    last_token = -1
    computed = 0  # tokens in the KV cache while it is prefilled
    generated = 0  # tokens delivered before it joined its cohort; `tokens()` has all of them
    blocks = 0  # KV blocks held; while it decodes and grows, those it held when it joined its cohort
    order = -1  # place in the running list
    preemptions = 0
    cached_tokens = 0  # prompt tokens found in the prefix cache
    over = False  # it has ended
    estimate = 0.0  # a predictor's word for its output length, where one is injected

    # The engine's own
    cohort: Cohort | None = None
    base = 0  # context - cohort.runs, constant while it decodes
    token_base = 0  # tokens delivered - cohort.runs, likewise
    finish = 0  # cohort.runs at which its last token comes
    replica = -1
    engine: Any = None  # the domain that has it, or the service that moves it
    passage: Any = None  # the way to its decode replica, while that is ahead of it
    holding: Any = None  # the prefix cache's books on it
    attempt = 0  # 1, 2, ... for a client's retries
    cancelled = False  # its client has gone
    retried = False  # and will send it again
    since = 0  # from when its time in the cohort counts as decoding
    phase_start = 0  # start of the prefill that leads to the next token
    own = 0  # accelerator time of its chunks had they run alone, since phase_start
    phase_host = 0  # host time since phase_start
    interference_base = 0  # cohort.interference when it joined
    host_base = 0  # cohort.host when it joined

    # Where its time went, ticks
    queueing = 0
    prefill = 0
    decode = 0
    interference = 0
    preemption = 0
    transfer = 0
    host = 0
    first_interference = 0  # the parts of the two that fell before the first token
    first_host = 0

    def __init__(self, index: int, row: int, arrival: int, prompt_tokens: int) -> None:
        self.index = index  # identity in this run
        self.row = row  # row of the trace; retries share it
        self.arrival = arrival
        self.prompt_tokens = prompt_tokens
        self.target = prompt_tokens  # tokens to compute before its next token comes

    def tokens(self) -> int:
        """Tokens delivered so far."""
        return self.token_base + self.cohort.runs if self.cohort else self.generated

    def context(self) -> int:
        """Tokens in the KV cache."""
        return self.base + self.cohort.runs if self.cohort else self.computed

    def __repr__(self) -> str:
        return f"<request {self.index}: {self.prompt_tokens} + {self.tokens()} tokens>"


Part = tuple[Request, int]  # a running prefill and the prompt tokens it computes in an iteration
Admission = tuple[Request, int, int]  # a waiting request, the tokens of its first chunk, the blocks it gets


_STEP = ("admit", "chunks", "decodes", "ghosts", "iterations", "preempt", "resume", "wake_on_arrival")


class Step:
    """What runs in the next iteration, and for how long that decision stands.

    decodes : how many of the view's decodes run, in list order.
    chunks : running prefills and the tokens each computes.
    admit : requests from the waiting queue, each with the tokens of its first chunk and the blocks it gets.
    resume : swapped-out requests that come back; they count among `decodes`.
    ghosts : slots that cost like a decode and produce nothing (padding of a static batch).
    preempt : running requests that are to lose their blocks first; the policy is then asked again.
    iterations : the promise that `compose` would decide the same, without `admit` and `resume`, this many times,
        unless a request ends, is preempted or cancelled, blocks run short or are freed - or one arrives,
        if `wake_on_arrival`. Where that is so and nobody waits or is swapped out, freed blocks change nothing.
    """

    __slots__ = _STEP

    def __init__(
        self,
        decodes: int = 0,
        chunks: Sequence[Part] = (),
        admit: Sequence[Admission] = (),
        resume: Sequence[Request] = (),
        iterations: int = 1,
        wake_on_arrival: bool = True,
        ghosts: int = 0,
        preempt: Sequence[Request] = (),
    ) -> None:
        self.decodes = decodes
        self.chunks = chunks
        self.admit = admit
        self.resume = resume
        self.iterations = iterations
        self.wake_on_arrival = wake_on_arrival
        self.ghosts = ghosts
        self.preempt = preempt

    def empty(self) -> bool:
        """Whether nothing runs."""
        return not (self.decodes or self.chunks or self.admit or self.resume)

    def same_work(self, other: Step) -> bool:
        """Whether the two run the same decodes and chunks and bring in nobody."""
        return (
            self.decodes == other.decodes
            and self.ghosts == other.ghosts
            and list(self.chunks) == list(other.chunks)
            and not (self.admit or self.resume or other.admit or other.resume)
        )

    def __repr__(self) -> str:
        parts = [f"{name}={getattr(self, name)}" for name in _STEP if getattr(self, name)]
        return f"Step({', '.join(parts)})"


_LIMITS = (
    "block_size",
    "enable_chunked_prefill",
    "fixed_blocks",
    "long_prefill_token_threshold",
    "max_model_len",
    "max_num_batched_tokens",
    "max_num_seqs",
)


class Limits:
    """The engine arguments that bound an iteration and a request, under vLLM's names.

    fixed_blocks : KV blocks that a request holds whatever its length (windows and states of hybrid models).
    """

    __slots__ = _LIMITS

    def __init__(
        self,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_model_len: int,
        block_size: int = 16,
        enable_chunked_prefill: bool = True,
        long_prefill_token_threshold: int = 0,
        fixed_blocks: int = 0,
    ) -> None:
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.max_model_len = max_model_len
        self.block_size = block_size
        self.enable_chunked_prefill = enable_chunked_prefill
        self.long_prefill_token_threshold = long_prefill_token_threshold
        self.fixed_blocks = fixed_blocks

    def blocks(self, tokens: int) -> int:
        """KV blocks of a request with `tokens` tokens in the cache."""
        return self.fixed_blocks - (-tokens // self.block_size)

    outgrown = FOREVER  # tokens of a request after which it takes no more blocks

    def figures(self) -> dict[str, int]:
        """By name, for the report."""
        return {name: getattr(self, name) for name in _LIMITS}


class CappedLimits(Limits):
    """Limits of requests that stop growing: of more than `outgrown` tokens the cache keeps no more."""

    __slots__ = ("outgrown",)

    def __init__(self, plain: Limits, outgrown: int) -> None:
        for name in _LIMITS:
            setattr(self, name, getattr(plain, name))
        self.outgrown = outgrown

    def blocks(self, tokens: int) -> int:
        """KV blocks of a request with `tokens` tokens computed."""
        return self.fixed_blocks - (-min(tokens, self.outgrown) // self.block_size)

    def figures(self) -> dict[str, int]:
        """By name, for the report."""
        return {**super().figures(), "outgrown": self.outgrown}


class RankView(Protocol):
    """What a batch or KV policy sees of one engine. Read only: a policy decides, the engine acts."""

    @property
    def now(self) -> int: ...
    @property
    def limits(self) -> Limits: ...
    @property
    def decodes(self) -> int:
        """Decoding requests that may run now, in list order."""

    @property
    def prefills(self) -> Sequence[Request]:
        """Admitted requests whose prompt is not complete and that may run now, in list order."""

    @property
    def running(self) -> int:
        """Requests on the running list, in flight or not."""

    @property
    def waiting(self) -> Iterable[Request]:
        """The queue, head first; falsy when empty."""

    @property
    def fifo(self) -> bool:
        """Whether arrivals join the queue at its tail."""

    @property
    def swapped(self) -> Sequence[Request]:
        """Requests whose blocks are on the host, oldest first."""

    @property
    def preempted(self) -> int:
        """Requests preempted since the last step."""

    @property
    def steps(self) -> int:
        """Iterations that have been computed here."""

    @property
    def free_blocks(self) -> int: ...
    @property
    def total_blocks(self) -> int: ...
    @property
    def decode_demand(self) -> int:
        """Blocks that one iteration of all `decodes` takes."""

    @property
    def caching(self) -> bool:
        """Whether prefixes are cached; without, `lookup` finds nothing and `promise` does nothing."""

    def lookup(self, request: Request, promised: dict[int, int], taken: int = 0) -> tuple[int, int]:
        """(blocks of a waiting request in the prefix cache, free blocks that using them takes).

        promised : a dictionary of the policy's own, filled by `promise` for those it admits in the same step.
        taken : free blocks that the step takes before it; what they held cannot be found any more.
        """

    def path(self, request: Request) -> Sequence[Run]:
        """The runs of a prompt that are in the prefix cache, from its head on; see `radix`."""

    def promise(self, request: Request, tokens: int, promised: dict[int, int]) -> None:
        """Note that a request is admitted and that its first `tokens` tokens will be in the cache."""

    def ordered(self) -> list[Request]:
        """Decodes and prefills that may run now, in list order. O(n): for rare decisions."""

    def ranked(self, requests: Iterable[Request]) -> list[Request]:
        """Requests, waiting or not, in the queue policy's order."""


class BatchPolicy(Protocol):
    """Composes iterations. Pure: the same view gives the same step.

    A policy that predicts iterations has a method `learn(cost)`, called with the engine's cost model beforehand.
    A policy may also have a method `observe(step)`, the only place where its own state may change. It is told each
    step that was launched; once for a whole leap of equal ones, so a state may depend on what ran, not how often.
    One that looks prefixes up in the cache says so with `caches_prefixes = True`.
    """

    kv: KVPolicy

    def compose(self, view: RankView) -> Step: ...


class KVPolicy(Protocol):
    """Grants, grows and takes back KV blocks."""

    grows: bool  # whether a decode takes blocks as its context grows (else all were reserved)
    spare: int  # blocks that must be free for a decode to run, whether it takes one or not
    swaps: bool  # whether a victim's blocks go to the host (else they are freed and recomputed)
    arrival_order: bool  # whether the running list is in order of arrival (else of admission)

    def admission(self, request: Request, tokens: int, view: RankView) -> tuple[int, int]:
        """(blocks to hold, blocks that must be free) to admit a request and have its first `tokens` in the cache."""

    def resumption(self, request: Request, view: RankView) -> tuple[int, int]:
        """The same, to bring a swapped-out request back and run it."""

    def victim(self, running: Sequence[Request]) -> Request:
        """Who loses its blocks when someone in `running` (list order) cannot grow."""


class QueuePolicy(Protocol):
    """Orders the waiting queue. One that reads `Request.estimate` says so with `needs_estimate = True`; one that tells
    tenants apart by name has a method `meet(names)`, called with the trace's tenant labels by code."""

    fifo: bool  # whether order of arrival is all there is to it (`key` is then not asked)

    def key(self, request: Request) -> tuple[float, ...]:
        """Smaller runs first; ties go to the earlier arrival."""


class Load(NamedTuple):
    """What a replica has to do.

    head_blocks, queued_blocks : KV blocks that the heads of its queues, and everybody in them, need to start.
    thrashing : somebody who was preempted waits. draining : it is to be emptied. watermark_blocks : kept by admissions.
    """

    free_blocks: int
    total_blocks: int
    running: int
    waiting: int
    head_blocks: int
    queued_blocks: int
    thrashing: bool
    draining: bool
    watermark_blocks: int = 0


class ReplicaView(Protocol):
    """What a router sees of a replica."""

    @property
    def id(self) -> int: ...
    @property
    def requests(self) -> int:
        """Requests routed there that have not ended."""

    @property
    def tokens(self) -> int:
        """Prompt tokens of those requests."""

    @property
    def coming(self) -> int:
        """Prompt tokens of requests that are to decode there and are still being prefilled elsewhere."""

    @property
    def free_share(self) -> float:
        """Share of its KV blocks that is free, 0 to 1."""

    @property
    def load(self) -> Load:
        """What it has to do. O(waiting)."""

    @property
    def load_before(self) -> Load:
        """`load`, with as many free blocks as there were at some time since the last news. Cheap."""

    @property
    def news(self) -> int | None:
        """A number that changes when an engine decides anew or a request arrives: until then only the free blocks of
        `load` change, and become fewer. None where that cannot be told. An attribute: cheap."""

    def lasts(self, blocks: int) -> int:
        """The tick before which at least so many blocks stay free if there is no news."""

    @property
    def block_size(self) -> int: ...
    @property
    def by_priority(self) -> Mapping[int, int]:
        """Its requests by priority, those of priority 0 left out."""

    @property
    def pool(self) -> str:
        """The name of its pool."""

    @property
    def pending_tokens(self) -> int:
        """Prompt tokens that are to be computed there. O(waiting)."""

    def cached_tokens(self, request: Request) -> int:
        """Tokens of a prompt in its prefix cache."""

    def loadable(self, request: Request) -> tuple[int, float]:
        """Tokens of a prompt beyond its prefix cache that it would load, and the predicted seconds for that."""

    def has_adapter(self, request: Request) -> bool:
        """Whether a request's LoRA adapter is on one of its devices."""

    def prefill_seconds(self, tokens: int, context: int) -> float:
        """Predicted time of a prompt's `tokens` tokens after `context` cached ones, alone."""

    def queue_seconds(self) -> float:
        """Predicted time of the prompts that wait there or are under way. O(waiting)."""

    def decode_seconds(self) -> float:
        """Predicted time of an iteration with one more decode than it has requests running."""


class Router(Protocol):
    """Picks a replica for a request.

    A router may also have a method `begin(stream)`: it then receives a random stream of its own before the run. One
    that looks at more of a replica than its requests, tokens and free memory says so with `looks_into_engines = True`;
    engines then do not run ahead of their batches.
    """

    def route(self, request: Request, views: Sequence[ReplicaView]) -> int:
        """Position in `views`."""


class PairRouter(Protocol):
    """Picks the prefill and the decode replica of a request together."""

    def place(
        self, request: Request, prefill: Sequence[ReplicaView], decode: Sequence[ReplicaView]
    ) -> tuple[int, int] | None:
        """Positions in the two; None rejects the request."""


class AdmissionPolicy(Protocol):
    """Lets requests in or turns them away at the cluster's door (HTTP 429)."""

    def admit(self, request: Request, views: Sequence[ReplicaView], now: int) -> bool:
        """Whether a new request may come in; `views` are the replicas that could take it."""


class Autoscaler(Protocol):
    """Says how many replicas a pool should have."""

    def wanted(self, views: Sequence[ReplicaView], starting: int, now: float, recent: Sequence[float]) -> int:
        """Replicas to have up or starting.

        views : those that are up. starting : how many more are coming. now : seconds. recent : TTFTs of the pool's
        requests that had their first token since the last look, seconds.
        """


class Rebalancer(Protocol):
    """Moves running requests between replicas.

    period : seconds between two looks. last_stage_blocks, max_stages : a migration stops the request for its last
    stage when no more than so many blocks are left to copy, and gives up after so many stages.
    """

    period: float
    last_stage_blocks: int
    max_stages: int

    def pairs(self, views: Sequence[ReplicaView], now: int) -> tuple[list[tuple[int, int]], float]:
        """Positions in `views`: from which replica to which one. If there are none, also the tick before which there
        will be none if there is no news, inf = never. O(replicas)."""

    def candidate(self, running: Sequence[Request]) -> Request | None:
        """Which of the decoding requests (list order) of a source goes."""
