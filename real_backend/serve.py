"""Serves traces for real: a plan's one replica as a `RealEngine`, on a real clock or on a simulated one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import torch

from ..configs.plan import Plan
from ..configs.techniques import Techniques
from ..errors import InputError
from ..sim.core import Request
from ..sim.deploy import deploy
from ..sim.deployment import Deployment
from ..sim.run import Progress, Run, run
from ..traces.columns import Ints
from ..traces.streams import Stream
from ..traces.table import RequestTable
from .batch import Row, make_batch
from .clocks import RealClock
from .engine import RealEngine
from .graphs import DecodeGraphs
from .model import KV_DTYPES, Model

# What the simulator models and the real engine has no means for.
_UNSERVED = (
    "disaggregation", "rebalancer", "retention", "tiers", "scaling", "adapters", "semantic_cache", "kv_borrowing",
    "faults",
)  # fmt: skip
_UNSERVED_IN_POOLS = ("prepend_tokens", "attention_workers", "experts", "streams", "techniques", "gpu_clock_mhz")


class Server:
    """A plan's model on a device, ready to serve traces.

    graph_sizes : batches of decodes to capture as CUDA graphs, on a GPU. ready : whether everything that a timed run
    needs is compiled and allocated beforehand.

    Raises InputError for a plan of more than one device, or for what `Model` does not support.
    """

    def __init__(
        self, plan: Plan, device: torch.device | str, *, seed: int = 0, graph_sizes: Sequence[int] = (),
        ready: bool = True,
    ) -> None:  # fmt: skip
        deployment = only_deployment(plan)
        limits = deployment.limits
        self.plan, self._seed, self._vocabulary = plan, seed, deployment.model.vocab_size
        self.model = Model(
            deployment.model, device=device, num_blocks=deployment.blocks, block_size=limits.block_size, seed=seed,
            cache_dtype=KV_DTYPES.get(deployment.pool.kv_cache_dtype),
        )  # fmt: skip
        self._graphs = None
        if graph_sizes and self.model.device.type == "cuda":
            sizes = [size for size in graph_sizes if size <= limits.max_num_seqs]
            self._graphs = DecodeGraphs(self.model, sizes, limits.blocks(limits.max_model_len))
        if ready:
            warm_up(self.model, limits.max_num_batched_tokens)

    def serve(
        self, table: RequestTable, plan: Plan | None = None, *, clock: RealClock | None = None,
        progress: Progress | None = None, deliver: Callable[[Request, Sequence[int]], None] | None = None,
    ) -> Run:  # fmt: skip
        """Serve `table` with `make_prompts` of it; the books are those of a simulation.

        plan : another one for the same model, with no more KV blocks. clock : of the run; None: iterations last as
        long as the plan's cost model says, and may then be decided ahead. deliver : is given each request that ends
        with the tokens it got.
        """
        prompts = make_prompts(table, self._vocabulary, self._seed)

        def prompt(request: Request) -> list[int]:
            ids: list[int] = prompts[request.row].tolist()
            return ids

        engine = partial(RealEngine, model=self.model, prompt=prompt, graphs=self._graphs, deliver=deliver)
        if len(table):  # nobody waits for the first arrival
            table = dataclasses.replace(table, arrival=table.arrival - table.arrival[0])
        plan = servable(plan or self.plan) if clock else plan or self.plan
        return run(table, plan, seed=self._seed, engine=engine, env=clock, progress=progress)


def make_prompts(table: RequestTable, vocabulary: int, seed: int) -> list[Ints]:
    """Random token ids for the prompt of each row; prompts share the tokens of the prefix blocks that they share.

    Raises InputError for blocks that hold answers too: what the model will say is not known beforehand.
    """
    if table.blocks and table.blocks.scope != "prompt":
        raise InputError("blocks", "prefix ids of prompts and answers", "of prompts alone, for the real engine")
    prompts = [
        Stream(seed, f"prompt/{row}").integers(tokens, vocabulary)
        for row, tokens in enumerate(table.prompt_tokens.tolist())
    ]
    if table.blocks:
        size, known = table.blocks.size, dict[int, Ints]()
        for row, prompt in enumerate(prompts):
            for i, key in enumerate(table.blocks.row(row).tolist()):
                if key not in known:
                    known[key] = Stream(seed, f"prefix/{key}").integers(size, vocabulary)
                part = prompt[i * size : (i + 1) * size]
                part[:] = known[key][: len(part)]
    return prompts


def servable(plan: Plan) -> Plan:
    """The plan as the real engine serves it: it decides between iterations, not during them."""
    pools = (dataclasses.replace(p, async_scheduling=False) for p in plan.pools)
    return dataclasses.replace(plan, pools=tuple(pools))


def only_deployment(plan: Plan) -> Deployment:
    """The plan's one pool, deployed. Raises InputError where the plan needs more than one device, or what the engine
    cannot do."""
    deployments = deploy(plan)
    accelerators = sum(d.pool.accelerators for d in deployments)
    if accelerators != 1:
        raise InputError("pools", f"{accelerators} accelerators", "a plan of one replica on one, for the real engine")
    kv_cache_dtype = deployments[0].pool.kv_cache_dtype
    if kv_cache_dtype not in ("auto", *KV_DTYPES):
        raise InputError("pools[0].kv_cache_dtype", kv_cache_dtype, "auto or fp8, for the real engine")
    for where, owner, names in (("", plan, _UNSERVED), ("pools[0].", deployments[0].pool, _UNSERVED_IN_POOLS)):
        for name in names:
            if getattr(owner, name) not in (None, 0, (), Techniques()):
                raise InputError(where + name, "given", "none, for the real engine")
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
