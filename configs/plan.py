"""A deployment plan: model, pools of replicas, policies, router, clients, links and prices, in vLLM's words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from math import inf
from pathlib import Path
from typing import Any, Literal

from ..errors import InputError, unknown_name
from .adapters import Adapters
from .attention_workers import AttentionWorkers
from .borrowing import KVBorrowing
from .catalog import find
from .dynamics import Faults, Scaling
from .engine import PolicyChoice
from .experts import Experts
from .model import Format, Parallelism
from .semantic import SemanticCache
from .sharing import SharedBlocks, SharedGPUs
from .streams import Streams
from .strict import build, check, read_mapping
from .techniques import Techniques
from .tiers import Tiers
from .topology import Disaggregation, FabricLink, Topology, fabric_pairs

LONGEST = 1e8  # seconds (three years) that any wait may take: the simulator's clock ends after four years


@dataclass(frozen=True)
class LinkOverride:
    """Replaces figures of a link of the hardware card: bytes/s in one direction, and seconds."""

    bandwidth: float | None = None
    latency: float | None = None

    def __post_init__(self) -> None:
        check(self.bandwidth is None or self.bandwidth > 0, "bandwidth", self.bandwidth, "bytes/s above 0")
        check(self.latency is None or self.latency >= 0, "latency", self.latency, "seconds, not negative")


@dataclass(frozen=True)
class Links:
    """link : inside a node. network : between nodes. host : to the host's memory. fabrics : by `from->to`."""

    link: LinkOverride = field(default_factory=LinkOverride)
    network: LinkOverride = field(default_factory=LinkOverride)
    host: LinkOverride = field(default_factory=LinkOverride)
    fabrics: dict[str, FabricLink] = field(default_factory=dict)


@dataclass(frozen=True)
class ClosedLoopClients:
    """`users` clients with one request each at a time, and `think_time` seconds between answer and next request."""

    users: int
    think_time: float = 0.0

    def __post_init__(self) -> None:
        check(self.users >= 1, "users", self.users, "at least 1")
        check(0 <= self.think_time <= LONGEST, "think_time", self.think_time, f"0 to {LONGEST:g} seconds")


@dataclass(frozen=True)
class Clients:
    """How clients behave. Times in seconds; a request that timed out is sent again `retries` times at most,
    `backoff` seconds later, doubled each time."""

    timeout: float = inf
    first_token_timeout: float = inf
    retries: int = 0
    backoff: float = 1.0
    closed_loop: ClosedLoopClients | None = None

    def __post_init__(self) -> None:
        for key in ("timeout", "first_token_timeout"):
            wait = getattr(self, key)
            check(0 < wait <= LONGEST or wait == inf, key, wait, f"seconds above 0, at most {LONGEST:g}")
        check(0 <= self.retries <= 100, "retries", self.retries, "0 to 100")
        most = LONGEST / 2**self.retries  # the last wait is that much longer than the first
        check(0 <= self.backoff <= most, "backoff", self.backoff, f"0 to {most:g} seconds with {self.retries} retries")
        patient = self.timeout == self.first_token_timeout == inf
        if self.retries and patient:
            found = f"{self.retries} without a timeout"
            raise InputError("retries", found, "`timeout` or `first_token_timeout` as well")


@dataclass(frozen=True)
class Pool:
    """Replicas that are alike. What is None comes from the engine preset, the model or the hardware card.

    role : whether its replicas compute prompts, decode, or both. fabric : replicas on different nodes exchange KV cache
        where this is the same, or where `links.fabrics` leads from one to the other.
    serves : labels of the trace's `model` column that this pool answers; empty = all that no other pool names.
    quantization : weight format instead of the one in the model's card: a key of `model.QUANTIZATIONS`, or bits a
        parameter and the number type of products (`{bits: 3.2, compute: bf16}`, for sizes in between as BitStack's).
    cost : "roofline", or the path of measured times: a table set, or a folder in a format that a reader knows.
    eviction : which cached KV blocks are forgotten first.
    prepend_tokens : put before every prompt that comes here, such as examples for a small model (IC-Cache).
    num_gpu_blocks_override : KV blocks of an engine, instead of the memory arithmetic.
    price_per_hour : USD for one accelerator.
    gpu_clock_mhz : what `nvidia-smi --lock-gpu-clocks` sets on its accelerators; None leaves them unlocked.
    techniques : of the literature (docs/techniques.md).
    """

    name: str
    hardware: str
    replicas: int = 1
    role: Literal["mixed", "prefill", "decode"] = "mixed"
    fabric: str = ""
    model: str | None = None
    engine: str | None = None
    cost: str | None = None
    quantization: str | Format | None = None
    serves: tuple[str, ...] = ()
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    enable_expert_parallel: bool = False
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    max_model_len: int | None = None
    long_prefill_token_threshold: int = 0
    enable_chunked_prefill: bool | None = None
    enable_prefix_caching: bool | None = None
    async_scheduling: bool | None = None
    block_size: int | None = None
    gpu_memory_utilization: float | None = None
    kv_cache_dtype: str = "auto"
    num_gpu_blocks_override: int | None = None
    swap_space: float | None = None
    prepend_tokens: int = 0
    attention_workers: AttentionWorkers | None = None
    experts: Experts | None = None
    streams: Streams | None = None
    blocks: SharedBlocks | None = None
    batch: PolicyChoice | None = None
    kv: PolicyChoice | None = None
    queue: PolicyChoice | None = None
    eviction: PolicyChoice = "lru"
    price_per_hour: float | None = None
    gpu_clock_mhz: int | None = None
    techniques: Techniques = field(default_factory=Techniques)

    def __post_init__(self) -> None:
        positive = (
            "replicas", "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "max_num_seqs",
            "max_num_batched_tokens", "max_model_len", "block_size", "num_gpu_blocks_override",
        )  # fmt: skip
        for key in positive:
            value = getattr(self, key)
            check(value is None or value >= 1, key, value, "at least 1")
        share = self.gpu_memory_utilization
        check(share is None or 0 < share <= 1, "gpu_memory_utilization", share, "a share above 0, at most 1")
        not_negative = {
            "prepend_tokens": "tokens",
            "long_prefill_token_threshold": "tokens",
            "swap_space": "GiB",
            "price_per_hour": "USD",
        }
        for key, unit in not_negative.items():
            value = getattr(self, key)
            check(value is None or value >= 0, key, value, f"{unit}, not negative")

    @property
    def parallel(self) -> Parallelism:
        """How one replica is split."""
        return Parallelism(
            self.tensor_parallel_size, self.pipeline_parallel_size, self.data_parallel_size, self.enable_expert_parallel
        )

    @property
    def accelerators(self) -> int:
        """Devices of the whole pool."""
        ranks = self.tensor_parallel_size * self.pipeline_parallel_size * self.data_parallel_size
        return self.replicas * ranks


@dataclass(frozen=True)
class RouterChoice:
    """The router and the age, in seconds, up to which its view of a replica may be old."""

    name: str = "least_outstanding"
    view_age: float = 0.0
    parameters: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(0 <= self.view_age <= LONGEST, "view_age", self.view_age, f"0 to {LONGEST:g} seconds")


@dataclass(frozen=True)
class Predictor:
    """A predictor of output length for queue policies that want one.

    name : "oracle" knows the true length. sigma : its error, the standard deviation of log(predicted / true).
    """

    name: Literal["oracle"]
    sigma: float = 0.0

    def __post_init__(self) -> None:
        check(0 <= self.sigma <= 50, "sigma", self.sigma, "0 to 50")  # at 1 it is right within a factor of 3 or so


@dataclass(frozen=True)
class Plan:
    """What is deployed. `prices` gives USD an hour by hardware name and replaces the cards' list prices."""

    name: str
    model: str
    engine: str
    pools: tuple[Pool, ...]
    cost: str = "roofline"
    router: RouterChoice = field(default_factory=RouterChoice)
    clients: Clients = field(default_factory=Clients)
    predictor: Predictor | None = None
    links: Links = field(default_factory=Links)
    prices: dict[str, float] = field(default_factory=dict)
    topology: Topology = field(default_factory=Topology)
    disaggregation: Disaggregation | None = None
    rebalancer: PolicyChoice | None = None
    admission: PolicyChoice | None = None
    retention: PolicyChoice | None = None
    tiers: Tiers | None = None
    reuse: PolicyChoice | None = None
    scaling: tuple[Scaling, ...] = ()
    adapters: Adapters | None = None
    semantic_cache: SemanticCache | None = None
    kv_borrowing: KVBorrowing | None = None
    shared_gpus: tuple[SharedGPUs, ...] = ()
    faults: Faults | None = None
    # Where relative paths of cards start; not part of the plan.
    folder: str = field(default="", compare=False, metadata={"written": False})

    def __post_init__(self) -> None:
        check(bool(self.pools), "pools", self.pools, "at least one pool")
        for hardware, price in self.prices.items():
            check(price >= 0, f"prices.{hardware}", price, "USD, not negative")
        names = [pool.name for pool in self.pools]
        for name in names:
            if names.count(name) > 1:
                raise InputError("pools", f"two pools called {name!r}", "a name of its own for each pool")
        self.fabric_links()
        sharing = [name for group in self.shared_gpus for name in group.pools]
        for name in sharing:
            if name not in names:
                raise unknown_name("shared_gpus.pools", "pool", name, names)
            if sharing.count(name) > 1:
                raise InputError("shared_gpus.pools", f"{name!r} more than once", "a pool on one set of accelerators")

    def fabric_links(self) -> dict[tuple[str, str], FabricLink]:
        """Links between the pools' fabrics, by (from, to)."""
        fabrics = {pool.fabric for pool in self.pools if pool.fabric}
        return fabric_pairs(self.links.fabrics, "links.fabrics", "fabric of a pool", fabrics)

    def sharing(self, pool: Pool) -> SharedGPUs | None:
        """With whom a pool shares its accelerators, if with anybody."""
        return next((group for group in self.shared_gpus if pool.name in group.pools), None)

    def fingerprint(self) -> str:
        """SHA-256 of what the plan says, first 16 hex digits."""
        values = said(self)
        values.pop("folder", None)
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def said(part: Any) -> Any:
    """What is not at its default, at every depth: a key that a plan does not use leaves no trace, so that new keys
    change nothing."""
    if isinstance(part, Mapping):
        return {key: said(value) for key, value in part.items()}
    if isinstance(part, tuple | list):
        return [said(value) for value in part]
    if not is_dataclass(part):
        return part
    values: dict[str, Any] = {}
    for f in fields(part):
        value = getattr(part, f.name)
        if value != (f.default if f.default_factory is MISSING else f.default_factory()):
            values[f.name] = said(value)
    return values


def load_plan(name: str) -> Plan:
    """A plan by path, or by the name of one that comes with the package."""
    path = find("plans", name, "plan")
    data = read_mapping(path)
    try:
        return plan_from(data, path.stem, path.parent)
    except InputError as error:
        raise error.at(f"{path}:") from None


def plan_from(data: dict[str, Any], name: str = "plan", folder: Path | None = None) -> Plan:
    """A plan from the mapping of its YAML file, in which `defaults` holds what all pools share."""
    values = {"name": name, **data}
    defaults = values.pop("defaults", {})
    if not isinstance(defaults, dict):
        raise InputError("defaults", "not a mapping", "keys of a pool")
    pools = values.get("pools")
    if isinstance(pools, list | tuple):
        values["pools"] = [{**defaults, **pool} if isinstance(pool, dict) else pool for pool in pools]
    router = values.get("router")
    if isinstance(router, str):
        values["router"] = {"name": router}
    elif isinstance(router, dict):
        own = {key: router[key] for key in ("name", "view_age") if key in router}
        values["router"] = {**own, "parameters": {k: v for k, v in router.items() if k not in own}}
    plan = build(Plan, values)
    return replace(plan, folder=str(folder or ""))
