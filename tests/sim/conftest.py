"""A small laboratory: one workload through the leaping engine, step by step, and through the list-walking oracle."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest

from servecast.costmodels.base import FOREVER, TICKS_PER_SECOND
from servecast.sim.clients import ClosedLoop, OpenLoop, Patience
from servecast.sim.cluster.cluster import Cluster, TraceColumns
from servecast.sim.cluster.replica import Replica
from servecast.sim.core import CappedLimits, Limits
from servecast.sim.engine.asynchronous import AheadDomain
from servecast.sim.engine.domain import Domain
from servecast.sim.engine.oracle import ListEngine
from servecast.sim.engine.pipeline import PipelineDomain
from servecast.sim.engine.rank import Rank
from servecast.sim.events import Clock
from servecast.sim.kv.eviction import Eviction
from servecast.sim.kv.pool import BlockPool
from servecast.sim.kv.prefix import PrefixPool
from servecast.sim.kv.swapspace import SwapSpace
from servecast.sim.policies.registry import make_policy
from servecast.sim.programs import ProgramClients
from servecast.sim.records import REQUEST_COLUMNS, Recorder
from servecast.sim.report.gaps import Gaps
from servecast.traces.columns import Labels, PrefixBlocks
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable


class LinearStage:
    """A cost with every dependence an engine has: tokens, contexts, chunks on a prefix, a kink in the context sum."""

    def __init__(self, kink: int = 3000) -> None:
        self.kink = kink

    def piece(self, chunks, decodes, context_sum, context_min, context_max):
        base = 140_000_000 + 900_000 * decodes
        slope, valid = 0, FOREVER
        if decodes:
            per_token = 3_001 if context_sum < self.kink else 4_003
            base += per_token * context_sum
            slope = per_token * decodes
            if context_sum < self.kink:
                valid = -(-(self.kink - context_sum) // decodes)
            base += 7 * (context_max - context_min)
        for tokens, context in chunks:
            base += 1_700_000 * tokens + 41 * tokens * context + 20 * tokens * tokens
            slope += 41 * tokens * tokens
        return base, slope, valid, 0


class LinearCost:
    extremes = True
    label = "test"
    meters: ClassVar[dict[str, Any]] = {}

    def __init__(self, stages: int = 1) -> None:
        self.stages = [LinearStage() for _ in range(stages)]

    def hop(self, tokens: int) -> int:
        return 1_000_000 + 900 * tokens

    def host(self, sequences: int) -> int:
        return 40_000_000 + 300_000 * sequences


@dataclass
class Setup:
    """One plan in small. Times in seconds."""

    batch: str = "vllm_v1"
    batch_parameters: dict[str, Any] = field(default_factory=dict)
    kv: str | None = None
    kv_parameters: dict[str, Any] = field(default_factory=dict)
    queue: str = "fcfs"
    queue_parameters: dict[str, Any] = field(default_factory=dict)
    router: str = "least_outstanding"
    replicas: int = 1
    stages: int = 1
    blocks: int = 200
    host_blocks: int = 0
    max_num_seqs: int = 16
    max_num_batched_tokens: int = 256
    max_model_len: int = 2048
    long_prefill_token_threshold: int = 0
    enable_chunked_prefill: bool = True
    block_size: int = 16
    fixed_blocks: int = 0
    outgrown: int = 0  # tokens after which a request takes no more blocks; 0 = never
    users: int = 0
    think_time: float = 0.0
    timeout: float = float("inf")
    first_token_timeout: float = float("inf")
    retries: int = 0
    cancel_after: Any = None
    view_age: int = 0
    ahead: bool = False
    eviction: str = "lru"
    caching: str = ""  # "" = no prefix caching, "runs" = the engine's store, "plain" = the list of single blocks below


class PlainPool(BlockPool):
    """The prefix cache block by block on plain lists: slow, and without a thought."""

    caching = True

    def __init__(self, total: int, block_size: int, ids: PrefixBlocks | None) -> None:
        super().__init__(total)
        self.block_size, self.ids = block_size, ids
        self.lru: list = [None] * total  # free blocks, oldest first: what each holds, None = nothing
        self.present: set = set()  # (key, position in the key) of cached blocks, free or not
        self.users: dict = {}  # key -> requests that hold it
        self.books: dict = {}

    def chain(self, request, tokens=None):
        """(key, position) of every block of the prompt, or of the first `tokens` tokens, that prefix ids cover."""
        if self.ids is None:
            return []
        ids, size = self.ids.row(request.row).tolist(), self.block_size
        if size > self.ids.size:
            ids = ids[size // self.ids.size - 1 :: size // self.ids.size]
        span = max(1, self.ids.size // size)
        tokens = request.prompt_tokens if tokens is None else tokens
        return [(ids[j // span], j % span) for j in range(min(len(ids) * span, tokens // size))]

    def take(self, blocks):
        super().take(blocks)
        for _ in range(blocks):
            self.present.discard(self.lru.pop(0))

    def matched(self, request, promised, present):
        chain = self.chain(request)
        found = 0
        while found < len(chain):
            key, j = chain[found]
            if chain[found] not in present and j >= promised.get(key, 0):
                break
            found += 1
        own = 0
        if found == len(chain):
            while ("own", request.index, own) in present:
                own += 1
        return chain, found, own

    def lookup(self, request, promised, taken=0):
        left = self.lru[taken:]
        chain, found, own = self.matched(request, promised, self.present - set(self.lru[:taken]))
        keys = {key for key, _ in chain[:found]}
        idle = sum(bool(label) and label[0] in keys and not self.users.get(label[0]) for label in left)
        idle += sum(bool(label) and label[:2] == ("own", request.index) for label in left) if own else 0
        return min(found + own, (request.target - 1) // self.block_size), idle

    def promise(self, request, tokens, promised):
        for j, (key, at) in enumerate(self.chain(request)):
            if j < tokens // self.block_size:
                promised[key] = max(promised.get(key, 0), at + 1)

    def admit(self, request):
        chain, found, own = self.matched(request, {}, self.present)
        keys = list(dict.fromkeys(key for key, _ in chain[:found]))
        limit = (request.target - 1) // self.block_size
        for key in keys:
            self.users[key] = self.users.get(key, 0) + 1
            if self.users[key] == 1:
                self.grab([label for label in self.lru if label and label[0] == key])
        if own:
            self.grab([("own", request.index, i) for i in range(own)])
        for i in range(10_000):
            self.present.discard(("own", request.index, i))
            if ("own", request.index, i) in self.lru:
                self.lru[self.lru.index(("own", request.index, i))] = None
        self.books[request] = {"keys": keys, "covered": found, "shared": min(found, limit), "repeats": False}
        found = min(found + own, limit)
        request.computed = found * self.block_size
        self.take(request.blocks - found)

    def grab(self, labels):
        for label in labels:
            self.lru.remove(label)
        super().take(len(labels))

    def cover(self, request, tokens, answer=False):
        books, chain = self.books[request], self.chain(request, tokens if answer else None)
        while books["covered"] < min(len(chain), tokens // self.block_size):
            label = key, at = chain[books["covered"]]
            if not any((key, j) in self.present for j in range(10_000 if at == 0 else 0)) and at == 0:
                books["keys"].append(key)
                self.users[key] = 1
            if books["keys"] and books["keys"][-1] == key and label not in self.present:
                self.present.add(label)
                books["shared"] += 1
            else:
                books["repeats"] = True
            books["covered"] += 1

    def release(self, request, preempted=False):
        if not preempted and self.ids is not None and self.ids.scope == "context":
            self.cover(request, request.computed, answer=True)
        books, chain = self.books.pop(request), self.chain(request)
        private = request.blocks - books["shared"]
        own = []
        if preempted and books["covered"] == len(chain) and not books["repeats"]:
            full = max(0, request.computed // self.block_size - len(chain))
            own = [("own", request.index, i) for i in range(full)]
        self.lru += [None] * (private - len(own)) + own[::-1]
        self.present.update(own)
        self.free += private
        for key in reversed(books["keys"]):
            self.users[key] -= 1
            if not self.users[key]:
                mine = sorted((label for label in self.present if label[0] == key), key=lambda label: -label[1])
                self.lru += mine
                self.free += len(mine)


@dataclass
class Outcome:
    rows: np.ndarray  # one row a request, in order of index
    iterations: list[list[tuple[int, int, int, int]]]  # per engine: start, ticks, decodes, prompt tokens
    gaps: Any
    cluster: Cluster
    engines: list[Any]
    recorder: Recorder

    def column(self, name: str) -> np.ndarray:
        return self.rows[:, list(REQUEST_COLUMNS).index(name)]


def workload(n: int, rate: float, prompt: int, output: int, seed: int, burst: bool = False) -> RequestTable:
    """Exponential everything; with `burst` all arrive in a few heaps, so that ties are the rule."""
    s = Stream(seed, "lab")
    arrival = np.cumsum(s.exponential(n)) / rate
    if burst:
        arrival = np.floor(arrival * 2) / 2
    arrival -= arrival[0]
    prompts = np.maximum(1, s.exponential(n) * prompt).astype(np.int64)
    outputs = np.maximum(1, s.exponential(n) * output).astype(np.int64)
    priority, tenant = s.integers(n, 3), Labels(s.integers(n, 3).astype(np.int32), ("a", "b", "c"))
    return RequestTable(arrival, prompts, outputs, priority=priority, tenant=tenant)


class Spied:
    """A batch policy with somebody looking over its shoulder."""

    def __init__(self, policy: Any, spy: Any) -> None:
        self.policy, self.spy, self.kv = policy, spy, policy.kv

    def compose(self, view):
        step = self.policy.compose(view)
        self.spy(view, step)
        return step

    def observe(self, step):
        if hasattr(self.policy, "observe"):
            self.policy.observe(step)


class EvenCost:
    """Every iteration takes `ticks`, whatever runs in it, and `ticks_each` for every request in it."""

    extremes = False
    label = "test"
    meters: ClassVar[dict[str, Any]] = {}

    def __init__(self, ticks: int, ticks_each: int = 0) -> None:
        self.ticks, self.ticks_each = ticks, ticks_each
        self.stages = [self]

    def piece(self, chunks, decodes, context_sum, context_min, context_max):
        return self.ticks + self.ticks_each * (decodes + len(chunks)), 0, FOREVER, 0

    def hop(self, tokens: int) -> int:
        return 0

    def host(self, sequences: int) -> int:
        return 0

    def describe(self) -> dict[str, object]:
        return {"label": self.label}


def simulate(
    setup: Setup, table: RequestTable, engine: str, *, cost: Any = None, until: float | None = None, spy: Any = None
) -> Outcome:
    """`engine` is "leap", "step" or "oracle". until : seconds. spy : called with every view and the step composed."""
    env = Clock()
    recorder = Recorder(setup.replicas)
    cluster = Cluster(env, TraceColumns(table), recorder)
    if setup.queue == "sjf":
        cluster.estimate = float  # an oracle
    cost = cost or LinearCost(setup.stages)
    limits = Limits(
        setup.max_num_seqs, setup.max_num_batched_tokens, setup.max_model_len, setup.block_size,
        setup.enable_chunked_prefill, setup.long_prefill_token_threshold, setup.fixed_blocks,
    )  # fmt: skip
    if setup.outgrown:
        limits = CappedLimits(limits, setup.outgrown)
    engines: list[Any] = []
    for i in range(setup.replicas):
        policy = make_policy("batch", setup.batch, setup.batch_parameters)
        if setup.kv:
            policy.kv = make_policy("kv", setup.kv, setup.kv_parameters)
        if hasattr(policy, "learn"):
            policy.learn(cost)
        if spy:
            policy = Spied(policy, spy)
        queue = make_policy("queue", setup.queue, setup.queue_parameters)
        args = (limits, policy, queue, setup.blocks, cluster.lengths, cluster.finished)
        pool = None
        if setup.caching == "plain":
            pool = PlainPool(setup.blocks, setup.block_size, table.blocks)
        elif setup.caching:
            eviction = make_policy("eviction", setup.eviction, {})
            worth = None if eviction.by_age else Eviction(eviction, cost).worth
            pool = PrefixPool(setup.blocks, setup.block_size, table.blocks, worth)
        keep, overlap = (getattr(policy.kv, name, False) for name in ("keep", "overlap"))
        host = SwapSpace(setup.host_blocks, getattr(policy.kv, "group", 1), 300, 699, keep, overlap)
        if engine == "oracle":
            engines.append(
                ListEngine(
                    env,
                    cluster.turn,
                    i + 1,
                    *args,
                    cluster.gone,
                    cost,
                    host=host,
                    pool=pool,
                    ahead=setup.ahead,
                )
            )
        else:
            rank = Rank(*args, host=host, pool=pool)
            kind = AheadDomain if setup.ahead else Domain if setup.stages == 1 else PipelineDomain
            engines.append(
                kind(
                    env, cluster.turn, i + 1, rank, cost, recorder, i, cluster.gone,
                    step_by_step=engine == "step" and setup.stages == 1,
                )
            )  # fmt: skip
    router = make_policy("router", setup.router, {})
    if hasattr(router, "begin"):
        router.begin(Stream(0, "router"))
    cluster.connect([Replica(i, "pool", [e]) for i, e in enumerate(engines)], router, setup.view_age, {})
    if setup.timeout < 1e9 or setup.first_token_timeout < 1e9 or setup.cancel_after is not None:
        Patience(env, cluster, setup.cancel_after, setup.timeout, setup.first_token_timeout, setup.retries, backoff=0.1)
    if table.programs is not None:
        ProgramClients(env, cluster, table)
    elif setup.users:
        ClosedLoop(env, cluster, setup.users, np.full(len(table), setup.think_time))
    else:
        OpenLoop(env, cluster, table)
    env.run(None if until is None else round(until * TICKS_PER_SECOND))
    cluster.close()
    columns = recorder.requests.columns()
    rows = np.stack(list(columns.values()), axis=1)
    rows = rows[np.argsort(columns["index"])]
    if engine == "oracle":
        gaps = sorted(g for e in engines for g in e.gaps)
        return Outcome(rows, [e.iterations for e in engines], gaps, cluster, engines, recorder)
    return Outcome(rows, [_iterations(t.columns()) for t in recorder.leaps], Gaps(recorder), cluster, engines, recorder)


def _iterations(c: dict[str, np.ndarray]) -> list[tuple[int, int, int, int]]:
    out = []
    names = ("start", "iterations", "base", "slope", "decodes", "prefill_tokens")
    for start, k, base, slope, decodes, tokens in zip(*(c[name].tolist() for name in names), strict=True):
        for j in range(k):
            out.append((start, base + j * slope, decodes, tokens))
            start += base + j * slope
    return sorted(out, key=lambda i: i[0])


@pytest.fixture
def lab():
    """The laboratory's tools by name."""
    from types import SimpleNamespace

    return SimpleNamespace(
        Setup=Setup,
        workload=workload,
        simulate=simulate,
        LinearCost=LinearCost,
        EvenCost=EvenCost,
        TICKS=TICKS_PER_SECOND,
    )
