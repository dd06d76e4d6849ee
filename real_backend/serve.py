"""Serves a trace for real: a plan's one replica as a `RealEngine`, on the wall clock or on a simulated one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch

from ..configs.plan import Plan
from ..errors import InputError
from ..sim.core import Request
from ..sim.deploy import Deployment, deploy
from ..sim.run import Progress, Run, run
from ..traces.streams import Stream
from ..traces.table import RequestTable
from .batch import Row, make_batch
from .clocks import CpuClock, WallClock
from .engine import RealEngine
from .graphs import DecodeGraphs
from .model import Model


def serve(
    table: RequestTable,
    plan: Plan,
    *,
    device: torch.device | str,
    seed: int = 0,
    clock: WallClock | CpuClock | None = None,
    graph_sizes: Sequence[int] = (),
    progress: Progress | None = None,
    deliver: Callable[[Request, Sequence[int]], None] | None = None,
) -> Run:
    """Serve `table` with the model of `plan`, random weights and random prompts; the books are those of a simulation.

    clock : of the run; None: iterations last as long as the plan's cost model says.
    graph_sizes : batches of decodes to capture as CUDA graphs, on a GPU.
    deliver : is given each request that ends with the tokens it got.

    Raises InputError for a plan of more than one device, or for what `Model` does not support.
    """
    plan = servable(plan)
    deployment = only_deployment(plan)
    limits = deployment.limits
    model = Model(
        deployment.model, device=device, num_blocks=deployment.blocks, block_size=limits.block_size, seed=seed
    )
    graphs = None
    if graph_sizes and model.device.type == "cuda":
        sizes = [size for size in graph_sizes if size <= limits.max_num_seqs]
        graphs = DecodeGraphs(model, sizes, limits.blocks(limits.max_model_len))
    if clock:
        warm_up(model, limits.max_num_batched_tokens)
    prompts = [
        Stream(seed, f"prompt/{row}").integers(tokens, deployment.model.vocab_size)
        for row, tokens in enumerate(table.prompt_tokens.tolist())
    ]

    def prompt(request: Request) -> list[int]:
        ids: list[int] = prompts[request.row].tolist()
        return ids

    engine = partial(RealEngine, model=model, prompt=prompt, graphs=graphs, deliver=deliver)
    if len(table):  # nobody waits for the first arrival
        table = replace(table, arrival=table.arrival - table.arrival[0])
    return run(table, plan, seed=seed, engine=engine, env=clock, progress=progress)


def servable(plan: Plan) -> Plan:
    """The plan as the real engine serves it: it schedules between iterations, and no two requests share a block."""
    pools = (replace(pool, async_scheduling=False, enable_prefix_caching=False) for pool in plan.pools)
    return replace(plan, pools=tuple(pools))


def only_deployment(plan: Plan) -> Deployment:
    """The plan's one pool, deployed. Raises InputError where the plan needs more than one device."""
    deployments = deploy(plan)
    accelerators = sum(d.pool.accelerators for d in deployments)
    if accelerators != 1:
        raise InputError("pools", f"{accelerators} accelerators", "a plan of one replica on one, for the real engine")
    return deployments[0]


def warm_up(model: Model, max_num_batched_tokens: int) -> None:
    """Run batches of the sizes to come, so that nothing is compiled or allocated for the first time in a timed run.

    Kernels are compiled for ranges of sizes; torch on a CPU prepares its 16-bit products for every size anew.
    """
    size = model.block_size
    most = min(max_num_batched_tokens, model.cache.shape[1] * size)
    powers = [1 << i for i in range(most.bit_length())]
    for tokens in range(1, most + 1) if model.device.type == "cpu" else {*powers, most}:
        chunk = Row([0] * tokens, 0, list(range(-(-tokens // size))))
        for chunks, decodes in (([chunk], []), ([chunk], [Row([0], 0, [0])])):
            model.next_tokens(make_batch(chunks, decodes, model.shape())).tolist()
