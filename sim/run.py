"""The door of the simulator: a trace and a plan in, everything that happened out."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, inf
from pathlib import Path
from typing import Any

import numpy as np
from simpy.events import Event

from ..configs.plan import Plan
from ..costmodels.base import ticks
from ..errors import InputError, unknown_name
from ..traces.columns import Floats
from ..traces.streams import Stream
from ..traces.table import RequestTable
from . import core
from .checkpoint import Checkpoint, CheckpointDue
from .clients import ClosedLoop, OpenLoop, Patience
from .cluster.cluster import Cluster, TraceColumns
from .cluster.dynamics import most_replicas
from .cluster.replica import Replica
from .cluster.semantic import FrontEnd
from .cluster.tenancy import share_gpus
from .core import Request
from .declared import check_declared
from .deploy import deploy, make_router
from .deployment import Deployment
from .engine.adapters import AdapterTimes, Beside, adapters_of
from .engine.asynchronous import AheadDomain
from .engine.blocks import BlockTimes, models_of
from .engine.domain import Domain
from .engine.lockstep import Lockstep, LockstepLane
from .engine.oracle import ListEngine
from .engine.pipeline import PipelineDomain
from .engine.rank import Rank
from .engine.speculation import speculative
from .engine.streams import StreamsDomain
from .engine.timeshare import TimeSharedDomain
from .events import ARRIVALS, Clock, Moment
from .interrupt import interruptible
from .invariants import check_invariants
from .policies.registry import third_party_modules
from .programs import ProgramClients
from .records import End, Recorder
from .services import Services, wanted

BETWEEN_LOOKS = 512  # requests that end between two looks at the real clock
_LARGE = 5_000  # requests: what shorter runs leave is little, and a search need not look through all objects
Progress = Callable[[float, int, int], None]  # simulated seconds, requests ended, requests in the trace


@dataclass
class EngineInfo:
    """One engine of a run: where it stands and what it has done, times in ticks."""

    replica: int
    pool: str
    total_blocks: int
    busy: int
    outside: int
    preemptions: int
    stages: int
    meters: dict[str, int]  # sums of the cost model's meters
    drafted: int  # tokens, where they are speculated on
    accepted: int
    swaps: dict[str, int]  # blocks copied to the host and back, and those that were there already
    loads: int  # of weights, where they come and go


@dataclass
class Run:
    """What a run leaves: its inputs, its books, and whether they are in order."""

    plan: Plan
    table: RequestTable
    seed: int
    deployments: list[Deployment]
    recorder: Recorder
    engines: list[EngineInfo]
    closed_loop: bool
    duration: int  # ticks until the last request ended, or the run was cut off
    interrupted: bool
    truncated: int  # answers cut short by max_model_len
    timeouts: int
    invariants: dict[str, bool]
    cpu_seconds: float
    services: Services | None = None
    front: FrontEnd | None = None

    @property
    def leaps(self) -> int:
        """Engine steps taken, each a leap over one or more iterations."""
        return sum(len(table) for table in self.recorder.leaps)


def run(
    table: RequestTable,
    plan: Plan,
    *,
    seed: int = 0,
    users: int = 0,
    think_time: Floats | None = None,
    step_by_step: bool = False,
    oracle: bool = False,
    horizon: float = inf,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
    deployments: list[Deployment] | None = None,
    on_end: Callable[[Request, End, int], None] | None = None,
    engine: Callable[..., ListEngine] | None = None,
    env: Clock | None = None,
) -> Run:
    """Replay `table` on `plan`.

    seed : of every random stream of the run.
    users, think_time : instead of the table's arrivals, a closed loop of so many clients, with seconds of thinking
        before each row; the plan's `clients.closed_loop` says the same with one number.
    step_by_step : take every iteration by itself and assert the promises that would have allowed a leap.
    oracle : use the list-walking engine; slow, for tests. It keeps no log of leaps.
    horizon : seconds after which the run stops; whoever has not ended then is "unfinished".
    checkpoint : where to save the state now and then, and to go on from if there is one.
    progress : called now and then; a `KeyboardInterrupt` ends the run early and keeps what is finished.
    deployments : what `deploy(plan)` gave, maybe changed.
    on_end : told of every request when it ends, how, and at which tick; a `KeyboardInterrupt` likewise.
    engine : makes each engine in place of the oracle's, with its arguments, `recorder` and `number`.
    env : the clock, in ticks from 0, if another than the simulated one.

    Raises `InputError` for a plan that cannot start or a table without requests.
    """
    _check_table(table)
    loop = plan.clients.closed_loop
    if loop and users:
        raise InputError("clients.closed_loop", "given together with a closed-loop trace", "one of the two")
    if loop:
        users, think_time = loop.users, np.full(len(table), loop.think_time)
    if users and table.programs is not None:
        raise InputError(
            "clients.closed_loop", "given with a trace of programs, which are closed loops", "one of the two"
        )
    deployments = deployments or deploy(plan)
    _check_together(plan, deployments, oracle, checkpoint)
    check_declared(table, deployments, real=engine is not None)
    trace = TraceColumns(table)
    if plan.adapters:
        trace.adapter = adapters_of(plan.adapters, table, seed)
    elif any(pool.blocks for pool in plan.pools):
        trace.adapter = models_of(table)
    watch = Watch(len(table), progress, checkpoint.every if checkpoint else inf)
    outside = _outside(table, trace, deployments, watch)
    if checkpoint and checkpoint.exists():
        world = checkpoint.load(outside, third_party_modules())
        watch.resume(len(world.recorder.requests))
    else:
        if checkpoint:
            checkpoint.clear()
        world = _World(
            env or Clock(), table, trace, plan, seed, deployments, step_by_step, _oracle if oracle else engine,
            checkpoint.columns if checkpoint else None,
        )  # fmt: skip
        if users:
            ClosedLoop(world.env, world.cluster, users, np.zeros(len(table)) if think_time is None else think_time)
        elif table.programs is not None:
            ProgramClients(world.env, world.cluster, table)
        else:
            OpenLoop(world.env, world.cluster, table)
        world.cluster.on_end.append(watch)
    watch.env = world.env
    if on_end:
        world.cluster.on_end.append(_between_events(world.env, on_end))
    if len(table) > _LARGE:
        gc.collect()  # what an earlier run left would stay beside this one
    interrupted, spent = _drive(world, horizon, lambda: checkpoint.save(world, outside) if checkpoint else None)
    world.cluster.close()
    return Run(
        plan=plan, table=table, seed=seed, deployments=deployments, recorder=world.recorder,
        engines=[_info(replica, d) for replica in world.cluster.replicas for d in replica.domains],
        closed_loop=users > 0,
        duration=int(world.recorder.requests.columns()["ended"].max(initial=0)),
        interrupted=interrupted, truncated=world.cluster.truncated,
        timeouts=world.patience.timeouts if world.patience else 0,
        invariants=check_invariants(world.recorder, world.cluster, interrupted or horizon < inf, world.services),
        services=world.services, front=world.front,
        cpu_seconds=spent,
    )  # fmt: skip


def _between_events(env: Clock, on_end: Callable[[Request, End, int], None]) -> Callable[[Request, End, int], None]:
    """`on_end`, whose `KeyboardInterrupt` waits for the end of the event in which it comes: what is booked halfway
    cannot be closed."""

    def interrupt(_: Event) -> None:
        raise KeyboardInterrupt

    def listener(request: Request, end: End, now: int) -> None:
        try:
            on_end(request, end, now)
        except KeyboardInterrupt:
            Moment(env, env.now, ARRIVALS, interrupt)

    return listener


def _oracle(*arguments: Any, recorder: Recorder, number: int) -> ListEngine:
    """The list-walking engine, which keeps no log."""
    return ListEngine(*arguments)


def _drive(world: _World, horizon: float, save: Callable[[], None]) -> tuple[bool, float]:
    """Let time pass: (whether a `KeyboardInterrupt` ended it, CPU seconds)."""
    started = time.process_time()
    interrupted = False
    gc.disable()  # live requests and cohorts form no cycles that outlast them
    try:
        with interruptible(world.env):
            while True:
                try:
                    world.env.run(until=None if horizon == inf else ticks(horizon))
                    break
                except CheckpointDue:
                    save()
    except KeyboardInterrupt:
        interrupted = True
    finally:
        gc.enable()
    return interrupted, time.process_time() - started


def _check_together(plan: Plan, deployments: Sequence[Deployment], oracle: bool, checkpoint: Checkpoint | None) -> None:
    if oracle and any(d.lockstep for d in deployments):
        raise InputError("oracle", "data-parallel ranks in lockstep", "a plan without them; the oracle walks one rank")
    if oracle and plan.shared_gpus:
        raise InputError("oracle", "given with shared_gpus", "a plan without them; the oracle walks one rank")
    if checkpoint and not str(core.__file__).endswith(".py"):
        found = "given with a compiled engine, whose objects cannot be made empty and then filled"
        raise InputError("--checkpoint", found, "the interpreted engine (ADR 11)")


def _check_table(table: RequestTable) -> None:
    if not len(table):
        raise InputError(table.source.name, "no requests", "at least one")
    for name in ("prompt_tokens", "output_tokens"):
        column = getattr(table, name)
        if int(column.min()) < 1:
            found = f"{int((column < 1).sum())} requests without {name}"
            raise InputError(table.source.name, found, "failed requests to be dropped (as `load` does by default)")
        if int(column.max()) >= 1 << 31:  # the width of a result's columns
            raise InputError(f"{table.source.name}: {name}", f"{column.max()}", f"at most {(1 << 31) - 1}")


class _World:
    """Everything that lives during one run. columns : a folder for the rows that it writes, None = in memory."""

    def __init__(
        self, env: Clock, table: RequestTable, trace: TraceColumns, plan: Plan, seed: int,
        deployments: list[Deployment], step_by_step: bool, engine: Callable[..., ListEngine] | None,
        columns: Path | None,
    ) -> None:  # fmt: skip
        self.env = env
        engines = sum(most_replicas(plan, d.pool) * d.pool.data_parallel_size for d in deployments)
        self.recorder = Recorder(engines, columns)
        self.cluster = cluster = Cluster(self.env, trace, self.recorder)
        self.replicas: list[Replica] = []
        self._engines = 0
        self._prefixes, self._classes, self._seed = table.blocks, table.request_class, seed
        self._tenants = table.tenant.names if table.tenant else ()
        self._serviced = wanted(plan)
        self._watched = getattr(make_router(plan), "looks_into_engines", False)
        for deployment in deployments:
            for number in range(most_replicas(plan, deployment.pool)):
                ranks = range(deployment.pool.data_parallel_size)
                domains = [self._engine(deployment, step_by_step, engine) for _ in ranks]
                if deployment.lockstep and not engine:
                    Lockstep(self.env, cluster.turn, domains[0].place, domains)
                pool = deployment.pool
                replica = Replica(len(self.replicas), pool.name, domains, pool.role, number)
                replica.prepend_tokens = pool.prepend_tokens
                self.replicas.append(replica)
        for group in plan.shared_gpus:
            share_gpus(group, [r for r in self.replicas if r.pool in group.pools])
        router = make_router(plan)
        begin = getattr(router, "begin", None)
        if begin:
            begin(Stream(seed, "router"))
        cluster.connect(self.replicas, router, ticks(plan.router.view_age), self._serving(table, deployments))
        cluster.front = self.front = (
            FrontEnd(cluster, plan.semantic_cache, table, seed) if plan.semantic_cache else None
        )
        self.services: Services | None = None
        if self._serviced:
            by_pool = {d.pool.name: d for d in deployments}
            self.services = Services(plan, seed, cluster, self.replicas, router, by_pool, table)
            cluster.refresh()
        if plan.predictor:
            cluster.estimate = _Predictor(plan.predictor.sigma, Stream(seed, "predictor"))
        self.patience = self._patience(plan, table)

    def _engine(self, deployment: Deployment, step_by_step: bool, engine: Callable[..., ListEngine] | None) -> Any:
        number = self._engines
        self._engines += 1
        cluster = self.cluster
        pool = deployment.kv_pool(self._prefixes)
        beside: Beside | None = AdapterTimes(deployment.lora, pool) if deployment.lora else None
        if deployment.block_cost:
            beside = BlockTimes(deployment.block_cost)
        queue = deployment.queue_policy()
        if hasattr(queue, "meet"):
            try:
                queue.meet(self._tenants)
            except InputError as error:
                raise error.at(f"{deployment.where}.queue") from None
        policy = deployment.batch_policy()
        host = deployment.swap_space(policy.kv)
        rank = (deployment.limits, policy, queue, deployment.blocks, cluster.lengths, cluster.finished)
        if deployment.pool.techniques.speculation:
            engine = speculative(deployment, self._seed, self._classes)
        if engine:
            made: Any = engine(
                self.env, cluster.turn, number + 1, *rank, cluster.gone, deployment.cost, host, pool,
                self._ahead(deployment), recorder=self.recorder, number=number,
            )  # fmt: skip
            made.beside = beside
            return made
        kind = Domain
        if deployment.tenancy:
            kind = TimeSharedDomain
        elif deployment.shared:
            kind = StreamsDomain
        elif len(deployment.cost.stages) > 1:
            kind = PipelineDomain
        elif deployment.lockstep:
            kind = LockstepLane
        elif self._ahead(deployment):
            kind = AheadDomain
        made = kind(
            self.env, cluster.turn, number + 1, Rank(*rank, host, pool), deployment.cost,
            self.recorder, number, cluster.gone, step_by_step,
        )  # fmt: skip
        made.beside = beside
        if deployment.shared:
            made.times = deployment.shared
        if deployment.tenancy:
            made.weights, made.load_ticks = deployment.tenancy.weights, deployment.tenancy.load_ticks
        return made

    def _ahead(self, deployment: Deployment) -> bool:
        # Who hands requests over or looks into engines must find requests as they are, not as they will be.
        return deployment.ahead and not self._serviced and not self._watched

    def _serving(self, table: RequestTable, deployments: list[Deployment]) -> dict[int, list[Replica]]:
        """Replicas by code of the trace's model label, where pools name the labels that they serve."""
        if not any(d.pool.serves for d in deployments):
            return {}
        names = table.model.names if table.model else ()
        by_pool: dict[str, list[Replica]] = {}
        for replica in self.replicas:
            by_pool.setdefault(replica.pool, []).append(replica)
        everyone = [r for d in deployments if not d.pool.serves for r in by_pool[d.pool.name]]
        serving = {-1: everyone}
        for code, name in enumerate(names):
            named = [r for d in deployments if name in d.pool.serves for r in by_pool[d.pool.name]]
            serving[code] = named or everyone
        for i, deployment in enumerate(deployments):
            for label in deployment.pool.serves:
                if label not in names:
                    raise unknown_name(f"pools[{i}].serves", "model label of this trace", label, names)
        return serving

    def _patience(self, plan: Plan, table: RequestTable) -> Patience | None:
        c = plan.clients
        if c.timeout == c.first_token_timeout == inf and table.cancel_after is None:
            return None
        return Patience(
            self.env, self.cluster, table.cancel_after, c.timeout, c.first_token_timeout, c.retries, c.backoff
        )


class Watch:
    """Counts those who end: now and then it shows progress and looks whether a checkpoint is due."""

    env: Clock

    def __init__(self, total: int, progress: Progress | None, every: float) -> None:
        self._total, self._progress, self._every = total, progress, every
        self._ended = 0
        self._due = time.monotonic() + every

    def resume(self, ended: int) -> None:
        """So many have ended already."""
        self._ended = ended

    def __call__(self, request: Request, end: End, now: int) -> None:
        self._ended += 1
        if self._ended % BETWEEN_LOOKS:
            return
        if self._progress:
            self._progress(now / ticks(1), self._ended, self._total)
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + self._every
            Moment(self.env, self.env.now, ARRIVALS, self._stop)

    def _stop(self, _: Event) -> None:
        raise CheckpointDue


def _outside(
    table: RequestTable, trace: TraceColumns, deployments: Sequence[Deployment], watch: Watch
) -> dict[str, object]:
    """What a checkpoint need not hold, by name: the inputs and what follows from them."""
    outside: dict[str, object] = {"trace": trace, "watch": watch}
    outside |= {f"trace.{name}": value for name, value in vars(trace).items()}
    outside |= {name: getattr(table, name) for name in ("arrival", "cancel_after", "blocks")}
    for i, deployment in enumerate(deployments):
        outside[f"cost {i}"] = deployment.cost
        outside[f"streams {i}"] = deployment.shared
        outside |= {f"stage {i}.{j}": stage for j, stage in enumerate(deployment.cost.stages)}
        for name, stages in deployment.cost.meters.items():
            outside |= {f"meter {i}.{name}.{j}": stage for j, stage in enumerate(stages)}
    return outside


class _Predictor:
    """A predictor of output length: the truth times a log-normal error."""

    def __init__(self, sigma: float, stream: Stream) -> None:
        self._sigma, self._stream = sigma, stream
        self._errors: list[float] = []

    def __call__(self, tokens: int) -> float:
        if not self._sigma:
            return float(tokens)
        if not self._errors:
            self._errors = self._stream.normal(1024)[::-1].tolist()
        return tokens * exp(self._sigma * self._errors.pop())


def _info(replica: Replica, domain: Any) -> EngineInfo:
    rank = domain.rank
    return EngineInfo(
        replica.id, replica.pool, rank.total_blocks, getattr(domain, "busy", 0), getattr(domain, "outside", 0),
        rank.preemptions, len(domain.cost.stages), getattr(domain, "meters", {}),
        getattr(domain, "drafted", 0), getattr(domain, "accepted", 0),
        {"blocks_out": rank.host.out, "blocks_back": rank.host.back, "blocks_kept": rank.host.spared},
        getattr(domain, "loads", 0),
    )  # fmt: skip
