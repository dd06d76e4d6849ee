"""Instance types: combinations of GPU, parallelism and engine settings that can start, and why others cannot."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from ..configs.catalog import find_model
from ..configs.engine import find_engine, policy_name
from ..configs.model import quantized
from ..configs.plan import Plan, Pool, plan_from, said
from ..configs.strict import build
from ..costmodels.energy import idle_watts
from ..costmodels.shapes import KVShape, cache_bytes, model_kv_shape
from ..errors import InputError
from ..sim.deploy import deploy
from ..sim.deployment import Deployment
from ..sim.policies.registry import make_policy
from ..traces.table import RequestTable
from .dominance import Pace, pace
from .inventory import Inventory

_SETTINGS = (
    "data_parallel_size", "enable_expert_parallel", "max_num_seqs", "max_num_batched_tokens", "kv_cache_dtype",
    "quantization",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Candidate:
    """One kind of replica.

    gpu : as the inventory calls it. pool : as it stands in a plan, with one replica. gpus : accelerators of a replica.
    usd_per_hour : of a replica. most : replicas that the inventory has room for. idle_watts : of a replica, None where
    unknown.
    kv : of a request. inside, network : bytes/s of KV cache that it sends or receives within its node, and beyond.
    pace : of its iterations, to compare it with others. caches : whether it finds prefixes again.
    """

    name: str
    gpu: str
    pool: Pool
    gpus: int
    usd_per_hour: float
    most: int
    kv_tokens: int
    idle_watts: float | None
    kv: KVShape
    inside: float
    network: float
    pace: Pace
    caches: bool

    @property
    def role(self) -> str:
        return self.pool.role


@dataclass(frozen=True)
class Rejected:
    """A combination that is out, and the reason with its numbers."""

    name: str
    reason: str


def find_candidates(inventory: Inventory, table: RequestTable) -> tuple[list[Candidate], list[Rejected]]:
    """Every instance type that can start and hold the longest request of `table`, and those that cannot.

    Raises `InputError` for policies, number formats and GPU clocks that there are not.
    """
    _check_policies(inventory)
    _check_formats(inventory)
    _check_clocks(inventory)
    candidates: list[Candidate] = []
    rejected: list[Rejected] = []
    longest = _max_model_len(inventory, table)
    seen = set()
    for gpu, pool in _pools(inventory, longest):
        name, count = pool.name, inventory.gpus[gpu].count
        room, node = count // pool.accelerators, inventory.node_size(gpu)
        if not room:
            rejected.append(Rejected(name, f"a replica takes {pool.accelerators} GPUs, and there are {count}"))
        elif pool.tensor_parallel_size > node:
            reason = f"tensor_parallel_size {pool.tensor_parallel_size} does not fit a node of {node} GPUs"
            rejected.append(Rejected(name, reason))
        else:
            try:  # a role alone is no plan
                (deployment,) = deploy(fleet_plan(inventory, [dataclasses.replace(pool, role="mixed")]))
            except InputError as error:
                rejected.append(Rejected(name, str(error)))
                continue
            if deployment.lockstep and pool.role != "mixed":
                rejected.append(Rejected(name, "ranks that run in lockstep hand no requests over"))
                continue
            limits = deployment.limits
            budget = 0 if pool.role == "decode" else limits.max_num_batched_tokens  # of prompts, which it has none of
            bare = dataclasses.replace(pool, name="", max_num_seqs=None, max_num_batched_tokens=None)
            same = (repr(bare), limits.max_num_seqs, budget)
            if same not in seen:  # the engine's defaults may be one of the other options
                candidates.append(_candidate(gpu, pool, deployment, room))
            seen.add(same)
    return candidates, rejected


def _check_policies(inventory: Inventory) -> None:
    given = [("defaults", inventory.defaults)]
    given += [(f"gpus.{gpu}.defaults", stock.defaults) for gpu, stock in inventory.gpus.items()]
    given += [("choices", {key: option}) for key, options in inventory.choices.items() for option in options]
    for place, values in given:
        for kind in ("batch", "queue", "kv", "eviction"):
            if values.get(kind) is not None:
                where = f"{place}.{kind}"
                make_policy(kind, *policy_name(values[kind], where), where)


def _check_formats(inventory: Inventory) -> None:
    card = find_model(inventory.model)
    for dtype in inventory.kv_cache_dtype:
        cache_bytes(card, dtype)
    for name in inventory.quantization:
        if name is not None:
            quantized(card, name)


def _check_clocks(inventory: Inventory) -> None:
    """A clock that one of the GPUs has is a choice for that one."""
    gpus, key = list(inventory.gpus), "gpu_clock_mhz"
    given = [("choices", gpus, option) for option in inventory.choices.get(key, ())]
    given += [("defaults", gpus, inventory.defaults.get(key))]
    given += [(f"gpus.{gpu}.defaults", [gpu], inventory.gpus[gpu].defaults.get(key)) for gpu in gpus]
    for place, able, mhz in given:
        errors = []
        for gpu in able if mhz is not None else ():
            try:
                inventory.card(gpu).locked(mhz)
            except InputError as error:
                errors.append(error)
        if errors and len(errors) == len(able):
            raise errors[0].at(place)


def _pools(inventory: Inventory, max_model_len: int) -> Iterator[tuple[str, Pool]]:
    """With the inventory's name of their GPUs."""
    preset = find_engine(inventory.engine)
    default = {gpu: preset.budget(inventory.card(gpu)).max_num_seqs for gpu in inventory.gpus}
    sizes = product(inventory.gpus, inventory.role, inventory.tensor_parallel_size, inventory.pipeline_parallel_size)
    for gpu, role, tp, pp in sizes:
        stock = inventory.gpus[gpu]
        given = {**inventory.defaults, **stock.defaults}
        for values, chosen in product(product(*(getattr(inventory, key) for key in _SETTINGS)), _chosen(inventory)):
            settings = dict(zip(_SETTINGS, values, strict=True))
            tokens, seqs = settings["max_num_batched_tokens"], settings["max_num_seqs"]
            if tokens and seqs is None and tokens < default[gpu]:
                settings["max_num_seqs"] = tokens  # an iteration holds no more requests than tokens
            words = [*_words(settings), *(word for word, *_ in chosen if word), *([] if role == "mixed" else [role])]
            own = {key: option for _, key, option in chosen if option is not None}
            values_of_pool = {
                "name": "-".join([gpu, f"tp{tp}", f"pp{pp}", *words]), "hardware": stock.hardware or gpu, "role": role,
                "fabric": stock.zone,
                "tensor_parallel_size": tp, "pipeline_parallel_size": pp, "max_model_len": max_model_len,
                "price_per_hour": inventory.price(gpu), **settings, **given, **own,
            }  # fmt: skip
            yield gpu, build(Pool, values_of_pool)


def _chosen(inventory: Inventory) -> list[tuple[tuple[str, str, Any], ...]]:
    """Every combination of the inventory's choices; of each option its word in a name, its key and itself."""
    options = [[(word, key, option) for word, option in _named(key, all_)] for key, all_ in inventory.choices.items()]
    return list(product(*options))


def _named(key: str, options: Sequence[Any]) -> list[tuple[str, Any]]:
    """Options with a word each: their policy's name, their value, or the key and their number."""

    def word(option: Any) -> str:
        if isinstance(option, Mapping):
            return str(option.get("name", key))
        if isinstance(option, bool):
            return key if option else f"no_{key}"
        return Path(option).stem if isinstance(option, str) else f"{key}{option}"

    words = ["" if option is None else word(option) for option in options]
    unique = [w if words.count(w) == 1 else f"{w}{i + 1}" for i, w in enumerate(words)]
    return list(zip(unique, options, strict=True))


def _words(settings: dict[str, Any]) -> Iterator[str]:
    short = {"data_parallel_size": "dp", "max_num_seqs": "seqs", "max_num_batched_tokens": "tokens"}
    defaults = {field.name: field.default for field in dataclasses.fields(Pool)}
    for key, value in settings.items():
        if value != defaults[key]:
            yield "ep" if key == "enable_expert_parallel" else f"{short.get(key, '')}{value}"


def _max_model_len(inventory: Inventory, table: RequestTable) -> int:
    """Room for the longest request, in steps of 1,024 tokens."""
    sizes = table.prompt_tokens + table.output_tokens
    longest, given = int(sizes.max()), inventory.max_model_len
    most = given or find_model(inventory.model).max_position_embeddings
    if most and most < longest:
        who = "" if given else f", all that {inventory.model} takes"
        found = f"{most}{who}, and {(sizes > most).sum():,} requests of the trace are longer, up to {longest} tokens"
        raise InputError("max_model_len", found, f"at least {longest}, or a trace without such requests")
    steps = -(-(longest + 1) // 1024) * 1024
    return given or min(steps, most or steps)


def _candidate(gpu: str, pool: Pool, deployment: Deployment, most: int) -> Candidate:
    gpus, hardware = pool.accelerators, deployment.hardware
    adapter = hardware.achieved.link * pool.tensor_parallel_size * pool.pipeline_parallel_size
    idle = idle_watts(hardware)
    assert deployment.usd_per_hour is not None  # the inventory prices every GPU
    return Candidate(
        pool.name, gpu, pool, gpus, deployment.usd_per_hour, most,
        deployment.blocks * deployment.limits.block_size * pool.data_parallel_size,
        None if idle is None else idle * gpus,
        model_kv_shape(deployment.model, pool.kv_cache_dtype),
        hardware.link.bandwidth * adapter, hardware.network.bandwidth * adapter,
        pace(dataclasses.replace(deployment, pool=pool)),  # which was deployed without its role
        deployment.prefix_caching,
    )  # fmt: skip


def fleet_plan(inventory: Inventory, pools: Sequence[Pool], **more: Any) -> Plan:
    """A plan of these pools; `more` are other keys of a plan."""
    return plan_from(plan_values(inventory, pools, **more), "fleet")


def plan_values(inventory: Inventory, pools: Sequence[Pool], **more: Any) -> dict[str, Any]:
    """The same as the mapping of a plan file, without settings that are defaults."""
    zones = {pool.fabric for pool in pools}
    between = {key: vars(link) for key, link in inventory.zone_links.items() if set(key.split("->")) <= zones}
    links = {**inventory.links, **({"fabrics": between} if between else {})}
    return {
        "model": inventory.model, "engine": inventory.engine,
        "pools": [{**said(pool), "replicas": pool.replicas} for pool in pools],
        "router": "least_outstanding", **({"links": links} if links else {}), **more, **inventory.plan,
    }  # fmt: skip
