"""What may be rented: GPUs with counts and prices, and the settings that the planner may choose among."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from ..configs.catalog import find_hardware
from ..configs.device import HardwareCard
from ..configs.plan import Links, Plan, Pool, plan_from
from ..configs.strict import build, check, read_mapping
from ..configs.topology import Disaggregation, FabricLink, fabric_pairs
from ..costmodels.choice import ROOFLINE
from ..errors import InputError, unknown_name


@dataclass(frozen=True)
class Stock:
    """GPUs of one kind.

    count : available. price_per_hour : USD for one; the card's list price where it is not given.
    gpus_per_node : the card's where it is not given; a tensor-parallel group stays inside a node.
    hardware : their card, where the entry has another name. zone : where they stand; the `fabric` of their pools.
    defaults : keys of the pools on them, such as the `cost` that was measured there.
    """

    count: int
    price_per_hour: float | None = None
    gpus_per_node: int | None = None
    hardware: str | None = None
    zone: str = ""
    defaults: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self.count >= 0, "count", self.count, "a number of GPUs, not negative")
        check(
            self.price_per_hour is None or self.price_per_hour > 0, "price_per_hour", self.price_per_hour, "USD above 0"
        )
        check(self.gpus_per_node is None or self.gpus_per_node >= 1, "gpus_per_node", self.gpus_per_node, "at least 1")
        _check_pool(self.defaults, "defaults")


@dataclass(frozen=True)
class Inventory:
    """The planner's choices. Lists name the options of a setting, in vLLM's words; None is the engine's default.

    gpus : by hardware card, or by any name. choices : options of any other key of a pool. defaults : keys of all pools.
    plan : further keys of the plan. links, disaggregation : as in a plan. zone_links : by `from->to`, as in a plan
    between fabrics. budget_per_hour : USD that the fleet may cost.
    spare : replicas whose loss the fleet has to survive. electricity_per_kwh : USD; 0 leaves energy out of the cost.
    uncertainty : share by which the capacity of a kind of replica may fall short of what was measured, for
    `uncertain_kinds` of them at once.
    """

    model: str
    gpus: dict[str, Stock]
    engine: str = "vllm-0.19"
    role: tuple[Literal["mixed", "prefill", "decode"], ...] = ("mixed",)
    tensor_parallel_size: tuple[int, ...] = (1, 2, 4, 8)
    pipeline_parallel_size: tuple[int, ...] = (1,)
    data_parallel_size: tuple[int, ...] = (1,)
    enable_expert_parallel: tuple[bool, ...] = (False,)
    max_num_seqs: tuple[int | None, ...] = (None,)
    max_num_batched_tokens: tuple[int | None, ...] = (None, 512, 2048)
    kv_cache_dtype: tuple[str, ...] = ("auto",)
    quantization: tuple[str | None, ...] = (None,)
    max_model_len: int | None = None
    choices: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    links: dict[str, Any] = field(default_factory=dict)
    zone_links: dict[str, FabricLink] = field(default_factory=dict)
    disaggregation: dict[str, Any] = field(default_factory=dict)
    budget_per_hour: float | None = None
    spare: int = 0
    electricity_per_kwh: float = 0.0
    uncertainty: float = 0.0
    uncertain_kinds: int = 1

    def __post_init__(self) -> None:
        for key in _LISTS:
            check(bool(getattr(self, key)), key, [], "at least one option")
        for key in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
            check(min(getattr(self, key)) >= 1, key, min(getattr(self, key)), "sizes from 1 on")
        check(
            self.budget_per_hour is None or self.budget_per_hour > 0,
            "budget_per_hour",
            self.budget_per_hour,
            "USD above 0",
        )
        check(self.spare >= 0, "spare", self.spare, "a number of replicas, not negative")
        check(self.electricity_per_kwh >= 0, "electricity_per_kwh", self.electricity_per_kwh, "USD, not negative")
        check(0 <= self.uncertainty < 1, "uncertainty", self.uncertainty, "a share from 0 to below 1")
        check(self.uncertain_kinds >= 0, "uncertain_kinds", self.uncertain_kinds, "a number of kinds, not negative")
        if ("prefill" in self.role) != ("decode" in self.role):
            raise InputError(
                "role", ", ".join(self.role), "prefill and decode together: neither serves a request alone"
            )
        _check_pool(self.defaults, "defaults")
        for key, options in self.choices.items():
            check(bool(options), f"choices.{key}", [], "at least one option")
            for option in options:
                _check_pool({key: option}, "choices")
        _check_plan(self.plan)
        if "fabrics" in self.links:
            raise InputError("links.fabrics", "given, and fabrics are the zones of `gpus`", "`zone_links`")
        build(Links, self.links, "links")
        self._check_zones()
        build(Disaggregation, self.disaggregation, "disaggregation")
        if not any(stock.count for stock in self.gpus.values()):
            raise InputError("gpus", f"{len(self.gpus)} kinds and not one GPU in all", "a count above 0")

    def _check_zones(self) -> None:
        self.zone_pairs()
        places: dict[tuple[str, str], str] = {}
        for gpu, stock in self.gpus.items():
            if not stock.zone and any(other.zone for other in self.gpus.values()):
                raise InputError(f"gpus.{gpu}.zone", "missing", "a zone, as other entries have one")
            first = places.setdefault((stock.hardware or gpu, stock.zone), gpu)
            if first != gpu:
                found = f"the same card and zone as {first}"
                raise InputError(f"gpus.{gpu}", found, "one entry for them, or zones of their own")

    def zone_pairs(self) -> dict[tuple[str, str], FabricLink]:
        """Links between zones, by (from, to)."""
        zones = {stock.zone for stock in self.gpus.values() if stock.zone}
        return fabric_pairs(self.zone_links, "zone_links", "zone of `gpus`", zones)

    @property
    def may_stay_near(self) -> bool:
        """Whether prompts may be decoded in the zone where they are computed, as far as the inventory's keys go."""
        first = self.disaggregation.get("choose") != "arrival" and not self.disaggregation.get("local_prefill_tokens")
        return first and bool(self.disaggregation.get("near", True)) and "router" not in self.plan

    def card(self, gpu: str) -> HardwareCard:
        """Of an entry of `gpus`."""
        hardware = self.gpus[gpu].hardware
        return find_hardware(hardware, f"gpus.{gpu}.hardware") if hardware else find_hardware(gpu, f"gpus.{gpu}")

    def price(self, gpu: str) -> float:
        """USD an hour for one `gpu`. Raises `InputError` where neither the inventory nor the card knows one."""
        stock, card = self.gpus[gpu], self.card(gpu)
        price = card.price_per_hour if stock.price_per_hour is None else stock.price_per_hour
        if price is None:
            raise InputError(
                f"gpus.{gpu}.price_per_hour", "missing, and the card knows none", "USD an hour for one GPU"
            )
        return price

    def node_size(self, gpu: str) -> int:
        """GPUs of a node."""
        return self.gpus[gpu].gpus_per_node or self.card(gpu).gpus_per_node


_LISTS = (
    "gpus", "role", "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "enable_expert_parallel",
    "max_num_seqs", "max_num_batched_tokens", "kv_cache_dtype", "quantization",
)  # fmt: skip
_DECIDED = {"name", "hardware", "replicas", "model", "serves", "max_model_len", "price_per_hour", "fabric", *_LISTS}
_OPEN = sorted({f.name for f in fields(Pool)} - _DECIDED)  # keys of a pool that `choices` and `defaults` may set
_OPEN_OF_PLAN = sorted(
    {f.name for f in fields(Plan)}
    - {"name", "model", "engine", "pools", "links", "disaggregation", "prices", "shared_gpus", "folder"}
)


def _check_pool(values: Mapping[str, Any], where: str) -> None:
    """Raise `InputError` for keys that a pool has not, or that the planner decides, and for their values."""
    for key in values:
        if key not in _OPEN:
            raise unknown_name(f"{where}.{key}", "key of a pool that is set here", key, _OPEN)
    build(Pool, {"name": "", "hardware": "", **{k: v for k, v in values.items() if v is not None}}, where)


def _check_plan(values: Mapping[str, Any]) -> None:
    for key in values:
        if key not in _OPEN_OF_PLAN:
            raise unknown_name(f"plan.{key}", "key of a plan that is set here", key, _OPEN_OF_PLAN)
    try:
        plan_from({"model": "", "engine": "", "pools": [Pool("", "")], **values})
    except InputError as error:
        raise error.at("plan") from None


def load_inventory(path: Path) -> Inventory:
    """From a YAML or JSON file; every GPU is looked up and priced. Relative paths start at its folder."""
    try:
        inventory = _rooted(build(Inventory, read_mapping(path)), path.parent.absolute())
        for gpu in inventory.gpus:
            inventory.price(gpu)
    except InputError as error:
        raise error if str(path) in error.where else error.at(f"{path}:") from None
    return inventory


def _rooted(inventory: Inventory, folder: Path) -> Inventory:
    """With whole paths of measured times and of cards: the plan is written elsewhere."""

    def rooted(values: dict[str, Any]) -> dict[str, Any]:
        return {**values, "cost": path(values["cost"])} if values.get("cost") else values

    def path(cost: str | None) -> str | None:
        return cost if cost in (None, ROOFLINE) else str(folder / Path(cost).expanduser())

    def card(name: str) -> str:
        return str(folder / name) if Path(name).suffix and (folder / name).exists() else name

    def stock(gpu: str, given: Stock) -> Stock:
        hardware = card(given.hardware or gpu)
        own = None if hardware == gpu else hardware
        return replace(given, hardware=own, defaults=rooted(given.defaults))

    choices = inventory.choices
    if "cost" in choices:
        choices = {**choices, "cost": tuple(map(path, choices["cost"]))}
    return replace(
        inventory,
        model=card(inventory.model), engine=card(inventory.engine),
        gpus={gpu: stock(gpu, given) for gpu, given in inventory.gpus.items()},
        choices=choices, defaults=rooted(inventory.defaults), plan=rooted(inventory.plan),
    )  # fmt: skip
