"""The closed loop: profile the machine, simulate a trace, serve it for real, and compare.

Two traces: a steady one at about two thirds of what the machine can do, and one that overloads it with so little KV
memory that requests are preempted. The tables that simulate them are measured before anything is served. How far the
machine itself drifts meanwhile is seen twice: by another profile after the runs, and where a trace is served several
times, by how these differ. On a CPU, whose speed others share, no prediction is held to less than that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from ..configs.catalog import find_model
from ..configs.plan import Plan, load_plan
from ..costmodels.launch import captured_sizes
from ..errors import InputError
from ..real_backend.clocks import CpuClock, WallClock
from ..real_backend.serve import Server, servable
from ..sim.deploy import deploy
from ..sim.report.report import build_report
from ..sim.report.write import write_json, write_results
from ..sim.run import Run, run
from ..traces.streams import Stream
from ..traces.table import RequestTable
from .grids import Grid, load_grid
from .profile import BLOCK_SIZE, Task, profile
from .results import PLAN, TABLES

RESULT = "closed-loop.json"
STEADY, OVERLOAD = "steady", "overload"
_LOADS = {STEADY: 0.65, OVERLOAD: 1.5}  # of the rate at which the simulator says that the machine is saturated
# How far the means may be off, by device; on a CPU as far as the machine drifted, if that is more.
LIMITS = {"cuda": {"e2el": 0.03, "tpot": 0.03, "ttft": 0.05}, "cpu": {"e2el": 0.10, "tpot": 0.10}}
_TIMES = {"cuda": 1, "cpu": 5}  # a trace is served
_METRICS = ("e2el", "tpot", "ttft")
_LONGEST = 8192  # tokens of a request
_BUDGETS = (0.6, 0.4)  # of the measuring time, before and after


@dataclass(frozen=True)
class Comparison:
    """One mean, in seconds: simulated with the tables from before, served, and simulated with those from after.

    served : of each time that the trace was served.
    limit : of the relative error, None where there is none. drifts : whether the machine's own drift is one as well.
    """

    trace: str
    metric: str
    simulated: float
    served: tuple[float, ...]
    afterwards: float
    limit: float | None
    drifts: bool = False

    @property
    def error(self) -> float:
        """Of the simulation against the middle one of the served runs."""
        return self.simulated / median(self.served) - 1

    @property
    def drift(self) -> float:
        """How far the machine was from what it had been: between the profiles, or over the middle half of the served
        runs, so that one run that was disturbed excuses nothing."""
        low, high = np.percentile(self.served, (25, 75)).tolist()
        profiles = max(self.simulated, self.afterwards) / min(self.simulated, self.afterwards)
        return float(max(profiles, high / low)) - 1

    @property
    def accepted(self) -> bool:
        if self.limit is None:
            return True
        return abs(self.error) <= max(self.limit, self.drift if self.drifts else 0.0)


@dataclass(frozen=True)
class Verdict:
    """What came of a closed loop. traces : by name, load and preemptions, simulated and served."""

    comparisons: tuple[Comparison, ...]
    traces: dict[str, dict[str, Any]]

    @property
    def accepted(self) -> bool:
        return all(c.accepted for c in self.comparisons)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = [
            {**dataclasses.asdict(c), "error": c.error, "drift": c.drift, "accepted": c.accepted}
            for c in self.comparisons
        ]  # fmt: skip
        return {"accepted": self.accepted, "comparisons": rows, "traces": self.traces}

    def table(self) -> str:
        """For a terminal."""
        lines = [f"{'trace':<10}{'mean':<7}{'simulated':>13}{'served':>13}{'error':>9}{'drift':>9}{'limit':>8}"]
        for c in self.comparisons:
            limit = "" if c.limit is None else f"{100 * c.limit:.0f} %"
            verdict = "" if c.accepted else "  missed"
            lines.append(
                f"{c.trace:<10}{c.metric:<7}{c.simulated * 1e3:>10.2f} ms{median(c.served) * 1e3:>10.2f} ms"
                f"{100 * c.error:>+7.1f} %{100 * c.drift:>7.1f} %{limit:>8}{verdict}"
            )
        for name, facts in self.traces.items():
            simulated, *served = facts["preemptions"]
            counts = f"preemptions {simulated} simulated, {', '.join(map(str, served))} served"
            lines.append(f"{name}: {facts['load']:.0%} of capacity, {counts}")
        lines.append("accepted" if self.accepted else "not accepted")
        return "\n".join(lines)


def closed_loop(task: Task, requests: int, seed: int, say: Callable[[str], object]) -> Verdict:
    """Run the loop in `task.out`: before/, after/, a folder for each trace with both runs, and closed-loop.json.

    requests : of each trace. Raises InputError for a device, model or folder that will not do.
    """
    if task.tp != 1:
        raise InputError("--tp", str(task.tp), "1: the real engine runs on one device")
    out = task.out
    if (out / RESULT).exists():
        raise InputError(str(out), f"a closed loop that has been run ({RESULT})", "another folder")
    before, after = (
        replace(task, out=out / name, budget=task.budget * share)
        for name, share in zip(("before", "after"), _BUDGETS, strict=True)
    )
    say("profiling before")
    profile(before, say)
    plan = _plan(before)
    traces = _traces(plan, requests, seed)
    server = _server(plan, task, seed)
    clock = WallClock if task.device == "cuda" else CpuClock
    served: dict[str, list[Run]] = {name: [] for name in traces}
    for time in range(_TIMES[task.device]):
        for name, (table, own_plan, _) in traces.items():
            say(f"serving {name}, time {time + 1}: {len(table)} requests in {table.arrival[-1]:.0f} s")
            served[name].append(server.serve(table, own_plan, clock=clock()))
    del server  # its memory is wanted
    say("profiling after")
    profile(after, say)
    comparisons: list[Comparison] = []
    facts = {}
    for name, (table, own_plan, load) in traces.items():
        simulated = run(table, own_plan, seed=seed)
        again = run(table, replace(own_plan, cost=str((after.out / TABLES).resolve())), seed=seed)
        for kind, result in (("simulated", simulated), ("served", served[name][0])):
            folder = out / name / kind
            folder.mkdir(parents=True, exist_ok=True)
            write_results(result, build_report(result), folder)
        comparisons += _compare(name, simulated, served[name], again, task.device)
        preemptions = [sum(e.preemptions for e in result.engines) for result in (simulated, *served[name])]
        facts[name] = {"load": load, "requests": len(table), "preemptions": preemptions}
    verdict = Verdict(tuple(comparisons), facts)
    write_json(verdict.as_dict(), out / RESULT)
    return verdict


def _plan(task: Task) -> Plan:
    """The profile's plan, with budgets that stay inside the grid."""
    plan = load_plan(str(task.out / PLAN))
    grid: Grid = load_grid(task.device, task.grid)
    longest = min(_LONGEST, grid.decode.context[-1], find_model(plan.model).max_position_embeddings or _LONGEST)
    batch, tokens = grid.decode.batch[-1], min(_LONGEST, grid.tokens[-1])
    pool = replace(plan.pools[0], max_model_len=longest, max_num_seqs=batch, max_num_batched_tokens=max(tokens, batch))
    plan = servable(replace(plan, pools=(pool,)))
    enough = max(1, batch // 4) * longest // BLOCK_SIZE  # requests are short on average
    blocks = min(enough, deploy(plan)[0].blocks)
    return replace(plan, pools=(replace(plan.pools[0], num_gpu_blocks_override=blocks),))


def _traces(plan: Plan, requests: int, seed: int) -> dict[str, tuple[RequestTable, Plan, float]]:
    """Trace, plan and load of both runs."""
    pool = plan.pools[0]
    longest = pool.max_model_len or _LONGEST
    stream = Stream(seed, "closed-loop")
    prompts = np.exp(stream.uniform(requests) * np.log(16.0)) * longest / 64  # 1/64 to 1/4 of the longest
    answers = np.exp(stream.uniform(requests) * np.log(8.0)) * longest / 128  # 1/128 to 1/16
    gaps = stream.exponential(requests)
    arrivals = np.cumsum(gaps) - gaps[0]
    lengths = np.maximum(1, prompts.astype(np.int64)), np.maximum(2, answers.astype(np.int64))
    burst = run(RequestTable(np.zeros(requests), *lengths), plan, seed=seed)
    capacity = build_report(burst)["request_throughput"]
    tables = {name: RequestTable(arrivals / (load * capacity), *lengths) for name, load in _LOADS.items()}
    plans = {STEADY: plan, OVERLOAD: _tight(tables[OVERLOAD], plan, seed)}
    return {name: (table, plans[name], _LOADS[name]) for name, table in tables.items()}


def _tight(table: RequestTable, plan: Plan, seed: int) -> Plan:
    """The plan with so few KV blocks that by the simulator some requests are preempted, if any number does that."""
    pool = plan.pools[0]
    least = -(-(pool.max_model_len or _LONGEST) // BLOCK_SIZE)
    blocks = least + int(table.prompt_tokens.mean()) * (pool.max_num_seqs or 1) // BLOCK_SIZE // 2
    while True:
        tight = replace(plan, pools=(replace(pool, num_gpu_blocks_override=blocks),))
        if blocks == least or run(table, tight, seed=seed).engines[0].preemptions:
            return tight
        blocks = max(least, 3 * blocks // 4)


def _server(plan: Plan, task: Task, seed: int) -> Server:
    """The engine, with the graphs that the profile's preset speaks of."""
    largest = load_grid(task.device, task.grid).max_cudagraph_capture_size
    return Server(plan, task.device, seed=seed, graph_sizes=captured_sizes(largest))


def _compare(name: str, simulated: Run, served: Sequence[Run], again: Run, device: str) -> list[Comparison]:
    reports = [build_report(result) for result in (simulated, again, *served)]
    limits = LIMITS[device]
    comparisons = []
    for metric in _METRICS:
        simulated_s, again_s, *served_s = (r[f"mean_{metric}_ms"] / 1e3 for r in reports)
        comparisons.append(
            Comparison(name, metric, simulated_s, tuple(served_s), again_s, limits.get(metric), device == "cpu")
        )
    return comparisons
