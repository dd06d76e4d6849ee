"""From a plan to engines: cards, budgets, policies, costs and KV capacity of each pool, checked before a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ..configs.catalog import find_hardware, find_model
from ..configs.device import HardwareCard, Link
from ..configs.engine import EnginePreset, find_engine
from ..configs.model import ModelCard, quantized, with_experts
from ..configs.plan import LinkOverride, Links, Plan, Pool
from ..costmodels.base import CostModel
from ..costmodels.blocks import BlockCost
from ..costmodels.choice import ROOFLINE, cost_model
from ..costmodels.composed import ComposedCost
from ..costmodels.drafting import Drafter, draft_memory, make_drafter
from ..costmodels.host import HostOverhead
from ..costmodels.launch import Launch
from ..costmodels.memory import KVCapacity, kv_capacity
from ..costmodels.shapes import stage_operators
from ..costmodels.shared import SharedTimes
from ..costmodels.split import SplitCost, workers_capacity
from ..costmodels.techniques import page_tokens, with_techniques
from ..costmodels.tenancy import tenancy
from ..errors import InputError, unknown_name
from .cluster.dynamics import check_dynamics
from .cluster.roles import check_roles
from .cluster.tenancy import check_tenancy
from .core import CappedLimits, Limits, Router
from .deployment import Deployment, first_given, in_lockstep
from .engine.adapters import with_adapters
from .engine.blocks import check_blocks
from .keep.retention import check_retention
from .policies.registry import make_policy


def deploy(plan: Plan) -> list[Deployment]:
    """Every pool of `plan`. Raises `InputError` for a plan that could not start."""
    deployments = []
    for i, pool in enumerate(plan.pools):
        deployment = _deploy(plan, pool, f"pools[{i}]")
        if getattr(deployment.queue_policy(), "needs_estimate", False) and plan.predictor is None:
            found = "an order by predicted length, and the plan has no predictor"
            raise InputError(f"{deployment.where}.queue", found, "predictor: {name: oracle, sigma: 0.5}, for example")
        if pool.blocks:
            check_blocks(plan, deployment)
            deployments.append(deployment)
            continue
        if plan.adapters:
            deployments.append(with_adapters(deployment, plan.adapters))
            continue
        deployments.append(
            dataclasses.replace(deployment, prefix_caching=_caches_prefixes(deployment), reuses=plan.reuse is not None)
        )
    make_router(plan)
    check_roles(plan, deployments)
    check_tenancy(plan, deployments)
    check_dynamics(plan, deployments)
    check_retention(plan, deployments)
    known = {d.pool.hardware for d in deployments} | {d.hardware.name for d in deployments}
    for name in plan.prices:
        if name not in known:
            raise unknown_name(f"prices.{name}", "hardware in this plan", name, known)
    return deployments


def _caches_prefixes(deployment: Deployment) -> bool:
    """Whether prefix caching is on: as the pool says, else where engine, batch policy and model can do it."""
    pool = deployment.pool
    wanted = pool.enable_prefix_caching
    deployment.kv_pool(None)  # its eviction policy is known
    where = f"{deployment.where}.enable_prefix_caching"
    able = getattr(deployment.batch_policy(), "caches_prefixes", False)
    if wanted and not able:
        raise InputError(where, "true, with a batch policy that does not look prefixes up", "false, or batch: vllm_v1")
    shape, rule = deployment.capacity.shape, pool.techniques.compression
    fixed = bool(shape.windows or shape.state_bytes or not shape.token_bytes)
    if wanted and fixed:
        found = f"true, and {deployment.model.name} has layers whose KV does not grow with the context"
        raise InputError(where, found, "false: such layers' blocks are not cached here")
    if wanted and rule and rule.drops:
        found = f"true, and {rule.name} drops tokens that only this query does not need"
        raise InputError(where, found, "false: the next query on the same prefix must prefill it again")
    if wanted is None:
        keeps = not (fixed or (rule and rule.drops))
        return deployment.preset.enable_prefix_caching and able and keeps
    return wanted


def make_router(plan: Plan) -> Router:
    """The plan's router."""
    made: Router = make_policy("router", plan.router.name, plan.router.parameters, "router")
    return made


def _deploy(plan: Plan, pool: Pool, where: str) -> Deployment:
    preset = find_engine(_card(plan, pool.engine or plan.engine), f"{where}.engine" if pool.engine else "engine")
    model = find_model(_card(plan, pool.model or plan.model), f"{where}.model" if pool.model else "model")
    if pool.quantization:
        model = quantized(model, pool.quantization, f"{where}.quantization")
    hardware = _with_links(find_hardware(_card(plan, pool.hardware), f"{where}.hardware"), plan.links)
    try:
        if pool.gpu_clock_mhz is not None:
            hardware = hardware.locked(pool.gpu_clock_mhz)
        if pool.experts:
            model = with_experts(model, pool.experts)
    except InputError as error:
        raise error.at(where) from None
    limits = _limits(pool, preset, model, hardware, where)
    try:
        limits.block_size = _block_size(pool, model, limits)
        weights, *beside = _draft_memory(pool, model)
        sharing = plan.sharing(pool)
        whole = priced(plan, pool, preset, model, hardware, limits)
        blocks = BlockCost(pool.blocks, whole, len(pool.serves)) if pool.blocks else None
        capacity = kv_capacity(
            model, hardware, pool.parallel,
            gpu_memory_utilization=pool.gpu_memory_utilization or preset.gpu_memory_utilization,
            max_num_batched_tokens=limits.max_num_batched_tokens,
            max_num_seqs=limits.max_num_seqs,
            block_size=limits.block_size,
            kv_cache_dtype=pool.kv_cache_dtype,
            reserved_bytes=weights + (blocks.private_bytes() if blocks else 0.0),
            weights_elsewhere=sharing is not None and sharing.weight_space is not None,
            techniques=pool.techniques,
            beside=(beside[0], beside[1]),
        )  # fmt: skip
        cost: CostModel = whole
        drafter = _drafter(plan, pool, preset, model, hardware, limits)
        if pool.attention_workers:
            card = find_hardware(_card(plan, pool.attention_workers.hardware), "attention_workers.hardware")
            cost = SplitCost(whole, pool.attention_workers, card)
            share = pool.gpu_memory_utilization or preset.gpu_memory_utilization
            capacity = workers_capacity(capacity, cost, share, pool.kv_cache_dtype)
    except InputError as error:
        raise error.at(where) from None
    sized = _sized(plan, pool, where, preset, model, hardware, limits, capacity, cost)
    shared = _shared(plan, sized) if pool.streams else None
    tenant = tenancy(sharing, model, hardware, pool) if sharing else None
    return dataclasses.replace(sized, drafter=drafter, shared=shared, tenancy=tenant, block_cost=blocks)


def _shared(plan: Plan, deployment: Deployment) -> SharedTimes:
    """The times of a pool with two streams. Raises `InputError` where it cannot have them."""
    pool, where = deployment.pool, f"{deployment.where}.streams"
    assert pool.streams is not None
    if (pool.cost or plan.cost) != ROOFLINE:
        raise InputError(where, "given with measured times", f"cost: {ROOFLINE}, until shares of a GPU are measured")
    if not getattr(deployment.batch_policy(), "streams", False):
        raise InputError(where, "given with a batch policy of one stream", "batch: nexus")
    if len(deployment.cost.stages) > 1 or deployment.lockstep:
        raise InputError(where, "given with stages or ranks in lockstep", "one batch of each kind on one replica")

    def price(hardware: HardwareCard) -> ComposedCost:
        return priced(plan, pool, deployment.preset, deployment.model, hardware, deployment.limits)

    return SharedTimes(price, deployment.hardware, pool.streams)


def priced(
    plan: Plan, pool: Pool, preset: EnginePreset, model: ModelCard, hardware: HardwareCard, limits: Limits
) -> ComposedCost:
    """The cost model of one engine of a pool."""
    return cost_model(
        _source(plan, pool.cost or plan.cost), model, hardware, pool.parallel,
        kv_cache_dtype=pool.kv_cache_dtype,
        host=_host_overhead(preset, hides=pool.async_scheduling is not False),
        launch=_launch(preset, limits),
        techniques=pool.techniques.with_blocks(limits.block_size),
    )  # fmt: skip


def _draft_memory(pool: Pool, model: ModelCard) -> tuple[float, float, float]:
    """What a drafter takes of a rank's memory (`costmodels.drafting.draft_memory`)."""
    speculation = pool.techniques.speculation
    if speculation is None or speculation.draft is None:
        return 0.0, 0.0, 0.0
    return draft_memory(speculation.draft, model, pool.parallel, pool.kv_cache_dtype)


def _drafter(
    plan: Plan, pool: Pool, preset: EnginePreset, model: ModelCard, hardware: HardwareCard, limits: Limits
) -> Drafter | None:
    """What drafts, if anything."""
    speculation = pool.techniques.speculation
    if speculation is None:
        return None
    if pool.pipeline_parallel_size > 1 or in_lockstep(pool, model) or plan.faults:
        found = "given with pipeline stages, ranks in lockstep or faults"
        raise InputError("techniques.speculation", found, "a plan without those: they are not modelled together")
    if speculation.draft is None:
        return None
    source = _source(plan, pool.cost or plan.cost)
    launch = _launch(preset, limits)
    return make_drafter(speculation.draft, source, model, hardware, pool.parallel, pool.kv_cache_dtype, launch)


def _source(plan: Plan, cost: str) -> str:
    """A table set's path starts at the plan's folder."""
    return cost if cost == ROOFLINE else str(Path(plan.folder) / Path(cost).expanduser())


def _launch(preset: EnginePreset, limits: Limits) -> Launch:
    """How the engine feeds the accelerator."""
    return Launch(
        # vLLM captures graphs for up to twice as many tokens as there are slots (`vllm/config/vllm.py`).
        max_cudagraph_capture_size=min(preset.max_cudagraph_capture_size, 2 * limits.max_num_seqs),
        prompts_in_graphs=preset.prompts_in_graphs,
        kernel_seconds=preset.kernel_seconds,
        gap_seconds_per_kernel=preset.gap_seconds_per_kernel,
        gap_seconds_per_sequence=preset.gap_seconds_per_sequence,
    )


def _host_overhead(preset: EnginePreset, hides: bool) -> HostOverhead:
    """The host's time on an iteration; the accelerator waits for all of it where a plan turns the overlap off."""
    shown, each = preset.host_seconds, preset.host_seconds_per_sequence
    hidden, hidden_each = preset.hidden_host_seconds, preset.hidden_host_seconds_per_sequence
    if hides:
        return HostOverhead(shown, each, hidden, hidden_each)
    return HostOverhead(shown + hidden, each + hidden_each)


def _card(plan: Plan, name: str) -> str:
    """A card's path in a plan starts at the plan's folder; a name stays a name."""
    beside = Path(plan.folder) / name
    return str(beside) if Path(name).suffix and beside.exists() else name


def _with_links(hardware: HardwareCard, links: Links) -> HardwareCard:
    def replaced(link: Link, override: LinkOverride) -> Link:
        return dataclasses.replace(link, **{k: v for k, v in vars(override).items() if v is not None})

    return dataclasses.replace(
        hardware,
        link=replaced(hardware.link, links.link),
        network=replaced(hardware.network, links.network),
        host=replaced(hardware.host, links.host),
    )


def _limits(pool: Pool, preset: EnginePreset, model: ModelCard, hardware: HardwareCard, where: str) -> Limits:
    budget = preset.budget(hardware)
    longest = model.max_position_embeddings
    max_model_len = pool.max_model_len or longest
    if max_model_len is None:
        raise InputError(f"{where}.max_model_len", "missing", f"a number of tokens ({model.name} sets no bound itself)")
    if longest is not None and max_model_len > longest:
        raise InputError(
            f"{where}.max_model_len", str(max_model_len), f"at most {longest}, the positions of {model.name}"
        )
    max_num_batched_tokens = pool.max_num_batched_tokens or budget.max_num_batched_tokens or max(max_model_len, 2048)
    limits = Limits(
        max_num_seqs=pool.max_num_seqs or budget.max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_model_len=max_model_len,
        block_size=pool.block_size or preset.block_size,
        enable_chunked_prefill=first_given(pool.enable_chunked_prefill, preset.enable_chunked_prefill),
        long_prefill_token_threshold=pool.long_prefill_token_threshold,
    )
    if max_num_batched_tokens < limits.max_num_seqs:
        found = f"{max_num_batched_tokens}, below max_num_seqs = {limits.max_num_seqs}"
        raise InputError(
            f"{where}.max_num_batched_tokens", found, "at least max_num_seqs, so that every request can run"
        )
    if not limits.enable_chunked_prefill and max_num_batched_tokens < max_model_len:
        found = f"{max_num_batched_tokens}, below max_model_len = {max_model_len}"
        expected = "at least max_model_len where prompts are not cut into chunks, or a smaller max_model_len"
        raise InputError(f"{where}.max_num_batched_tokens", found, expected)
    return limits


def _block_size(pool: Pool, model: ModelCard, limits: Limits) -> int:
    """Tokens of a KV block: the engine's, or what a group of pages holds."""
    paging = pool.techniques.paging
    prefix = sum(level.tokens for level in pool.techniques.shared_prefix)
    if prefix >= limits.max_model_len:
        found = f"{prefix} tokens in common, with max_model_len = {limits.max_model_len}"
        raise InputError("techniques.shared_prefix", found, "fewer, so that a request has some of its own")
    if paging is None or paging.page_group_bytes is None:
        return limits.block_size
    stage = stage_operators(model, pool.parallel, 0, pool.kv_cache_dtype)
    return page_tokens(with_techniques(stage, model, pool.techniques), paging.page_group_bytes)


def _capped(limits: Limits, pool: Pool, capacity: KVCapacity, where: str) -> Limits:
    """The limits of requests of which the cache keeps so many tokens at most, where a technique says so."""
    rule = pool.techniques.compression
    if rule and capacity.shape.token_bytes and sum(rule.kept(limits.max_model_len)) < limits.block_size:
        found = f"{rule.name}, which keeps {sum(rule.kept(limits.max_model_len)):g} tokens of {limits.max_model_len}"
        raise InputError(where, found, f"at least a KV block of {limits.block_size} tokens")
    outgrown = capacity.shape.outgrown
    return limits if outgrown is None else CappedLimits(limits, outgrown)


def _sized(
    plan: Plan, pool: Pool, where: str, preset: EnginePreset, model: ModelCard, hardware: HardwareCard, limits: Limits,
    capacity: KVCapacity, cost: CostModel,
) -> Deployment:  # fmt: skip
    """Add the numbers that follow from the memory arithmetic, and refuse what vLLM would refuse to start."""
    limits.block_size = capacity.block_size
    block_bytes = capacity.shape.token_bytes * capacity.block_size
    if block_bytes:
        limits.fixed_blocks = -int(-capacity.shape.constant_bytes // block_bytes)
    limits = _capped(limits, pool, capacity, f"{where}.techniques.kv")
    blocks = (pool.num_gpu_blocks_override or capacity.num_blocks) - preset.reserved_blocks
    most = blocks * pool.replicas * pool.data_parallel_size if plan.kv_borrowing else blocks
    if limits.blocks(limits.max_model_len) > most:
        fits = max(0, blocks - limits.fixed_blocks) * limits.block_size
        need = limits.blocks(limits.max_model_len)
        found = f"{limits.max_model_len} tokens need {need} KV blocks of {limits.block_size}, and {blocks} fit"
        arithmetic = "; ".join(" ".join(line.split()) for line in capacity.lines())
        raise InputError(f"{where}.max_model_len", f"{found} ({arithmetic})", f"at most {fits}")
    swap_space = preset.swap_space if pool.swap_space is None else pool.swap_space
    host_blocks = int(swap_space * (1 << 30) // block_bytes) if block_bytes else 0
    price = pool.price_per_hour
    if price is None:
        price = plan.prices.get(pool.hardware, plan.prices.get(hardware.name, hardware.price_per_hour))
    if price is not None and (group := plan.sharing(pool)):  # accelerators are paid for once
        price /= len(group.pools)
    return Deployment(
        pool=pool, model=model, hardware=hardware, preset=preset, limits=limits, cost=cost, capacity=capacity,
        blocks=blocks, host_blocks=host_blocks,
        prefix_caching=False,
        usd_per_hour=_usd_per_hour(pool, price, cost),
        where=where,
    )  # fmt: skip


def _usd_per_hour(pool: Pool, price: float | None, cost: CostModel) -> float | None:
    """Of the whole pool, its attention workers included."""
    if price is None:
        return None
    if not isinstance(cost, SplitCost):
        return price * pool.accelerators
    workers = cost.workers
    other = cost.hardware.price_per_hour if workers.price_per_hour is None else workers.price_per_hour
    return None if other is None else price * pool.accelerators + other * workers.count * pool.replicas
