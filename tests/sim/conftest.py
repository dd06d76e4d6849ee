"""A small laboratory: one workload through the leaping engine, step by step, and through the list-walking oracle."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import simpy

from servecast.costmodels.base import FOREVER, TICKS_PER_SECOND
from servecast.sim.clients import ClosedLoop, OpenLoop, Patience
from servecast.sim.cluster import Cluster
from servecast.sim.core import Limits
from servecast.sim.domain import Domain
from servecast.sim.gaps import Gaps
from servecast.sim.oracle import ListEngine
from servecast.sim.pipeline import PipelineDomain
from servecast.sim.policies.registry import make_policy
from servecast.sim.rank import Rank
from servecast.sim.records import REQUEST_COLUMNS, Recorder
from servecast.sim.replica import Replica
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable


class LinearStage:
    """A cost with every dependence an engine has: tokens, contexts, chunks on a prefix - and a kink in the context sum."""

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
    users: int = 0
    think_time: float = 0.0
    timeout: float = float("inf")
    first_token_timeout: float = float("inf")
    retries: int = 0
    cancel_after: Any = None
    view_age: int = 0


@dataclass
class Outcome:
    rows: np.ndarray  # one row a request, in order of index
    iterations: list[list[tuple[int, int, int, int]]]  # per engine: start, ticks, decodes, prompt tokens
    gaps: Any
    cluster: Cluster
    engines: list[Any]
    recorder: Recorder

    def column(self, name: str) -> np.ndarray:
        return self.rows[:, REQUEST_COLUMNS.index(name)]


def workload(n: int, rate: float, prompt: int, output: int, seed: int, burst: bool = False) -> RequestTable:
    """Exponential everything; with `burst` all arrive in a few heaps, so that ties are the rule."""
    s = Stream(seed, "lab")
    arrival = np.cumsum(s.exponential(n)) / rate
    if burst:
        arrival = np.floor(arrival * 2) / 2
    arrival -= arrival[0]
    prompts = np.maximum(1, s.exponential(n) * prompt).astype(np.int64)
    outputs = np.maximum(1, s.exponential(n) * output).astype(np.int64)
    return RequestTable(arrival, prompts, outputs, priority=s.integers(n, 3))


def simulate(setup: Setup, table: RequestTable, engine: str) -> Outcome:
    """`engine` is "leap", "step" or "oracle"."""
    env = simpy.Environment(initial_time=0)
    recorder = Recorder(setup.replicas)
    cluster = Cluster(env, table, recorder)
    cluster.estimate = float
    cost = LinearCost(setup.stages)
    limits = Limits(
        setup.max_num_seqs, setup.max_num_batched_tokens, setup.max_model_len, setup.block_size,
        setup.enable_chunked_prefill, setup.long_prefill_token_threshold, setup.fixed_blocks,
    )  # fmt: skip
    engines: list[Any] = []
    for i in range(setup.replicas):
        policy = make_policy("batch", setup.batch, setup.batch_parameters)
        if setup.kv:
            policy.kv = make_policy("kv", setup.kv, setup.kv_parameters)
        queue = make_policy("queue", setup.queue, {})
        args = (limits, policy, queue, setup.blocks, cluster.lengths, cluster.finished)
        if engine == "oracle":
            engines.append(
                ListEngine(
                    env, cluster.turn, i + 1, *args, cluster.gone, cost, host_blocks=setup.host_blocks, swap_ticks=999
                )
            )
        else:
            rank = Rank(*args, host_blocks=setup.host_blocks)
            kind = Domain if setup.stages == 1 else PipelineDomain
            engines.append(
                kind(
                    env, cluster.turn, i + 1, rank, cost, recorder, i, cluster.gone, swap_ticks=999,
                    step_by_step=engine == "step" and setup.stages == 1,
                )
            )  # fmt: skip
    router = make_policy("router", setup.router, {})
    if hasattr(router, "begin"):
        router.begin(Stream(0, "router"))
    cluster.connect([Replica(i, "pool", [e]) for i, e in enumerate(engines)], router, setup.view_age, {})
    if setup.timeout < 1e9 or setup.first_token_timeout < 1e9 or setup.cancel_after is not None:
        Patience(
            env, cluster, setup.cancel_after, setup.timeout, setup.first_token_timeout, setup.retries, backoff=0.1
        )
    if setup.users:
        ClosedLoop(env, cluster, len(table), setup.users, setup.think_time)
    else:
        OpenLoop(env, cluster, table)
    env.run()
    columns = recorder.requests.columns()
    rows = np.stack(list(columns.values()), axis=1)
    rows = rows[np.argsort(columns["index"])]
    if engine == "oracle":
        return Outcome(rows, [e.iterations for e in engines], sorted(g for e in engines for g in e.gaps), cluster, engines, recorder)
    return Outcome(rows, [_iterations(t.columns()) for t in recorder.leaps], Gaps(recorder), cluster, engines, recorder)


def _iterations(c: dict[str, np.ndarray]) -> list[tuple[int, int, int, int]]:
    out = []
    for start, k, base, slope, decodes, tokens in zip(
        *(c[name].tolist() for name in ("start", "iterations", "base", "slope", "decodes", "prefill_tokens")), strict=True
    ):
        for j in range(k):
            out.append((start, base + j * slope, decodes, tokens))
            start += base + j * slope
    return sorted(out, key=lambda i: i[0])


@pytest.fixture
def lab():
    """The laboratory's tools by name."""
    from types import SimpleNamespace

    return SimpleNamespace(Setup=Setup, workload=workload, simulate=simulate, LinearCost=LinearCost, TICKS=TICKS_PER_SECOND)
