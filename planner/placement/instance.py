"""A placement instance: layers, node types with their throughput by layers held, and links between nodes.

Source of the problem: Helix (ASPLOS'25, Thesys-lab/Helix-ASPLOS25), without partial inference: each node holds one
contiguous range of layers and serves all of it; a link leads from a node to every node whose range begins where its
own ends.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...configs.strict import build, check, describe
from ...errors import InputError, nearest_name, unknown_name

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class NodeType:
    """Nodes that are alike.

    throughput_tokens_per_s_by_layers_held : tokens/s of a node that holds so many layers (as text, since JSON has no
        other keys); what is not listed does not fit.
    """

    count: int
    throughput_tokens_per_s_by_layers_held: dict[str, float]
    name: str = ""

    def __post_init__(self) -> None:
        check(self.count >= 1, "count", self.count, "at least 1")
        key = "throughput_tokens_per_s_by_layers_held"
        table = self.throughput_tokens_per_s_by_layers_held
        check(bool(table), key, table, "at least one number of layers")
        for layers, rate in table.items():
            check(layers.isdecimal() and int(layers) >= 1, key, layers, "numbers of layers from 1 on")
            check(rate > 0, f"{key}.{layers}", rate, "tokens/s above 0")

    @cached_property
    def rates(self) -> dict[int, float]:
        """Tokens/s by layers held."""
        return {int(layers): rate for layers, rate in self.throughput_tokens_per_s_by_layers_held.items()}


@dataclass(frozen=True)
class Instance:
    """One problem. Nodes are numbered through the types in their order.

    links : (from, to, tokens/s) with node numbers; `source` and `sink` are the numbers `nodes` and `nodes` + 1.
    """

    name: str
    layers: int
    node_types: tuple[NodeType, ...]
    min_link_capacity_tokens_per_s: float | None = None
    links: tuple[tuple[int, int, float], ...] = field(default=(), metadata={"written": False})

    def __post_init__(self) -> None:
        check(self.layers >= 1, "layers", self.layers, "at least 1")
        check(bool(self.node_types), "node_types", self.node_types, "at least one type")
        least = self.min_link_capacity_tokens_per_s
        check(least is None or least > 0, "min_link_capacity_tokens_per_s", least, "tokens/s above 0")

    @cached_property
    def type_of(self) -> list[int]:
        """The type of every node."""
        return [t for t, kind in enumerate(self.node_types) for _ in range(kind.count)]

    @property
    def nodes(self) -> int:
        return len(self.type_of)

    def rate(self, kind: int, layers: int) -> float:
        """Tokens/s of a node of type `kind` that holds `layers` layers; 0 where they do not fit."""
        return self.node_types[kind].rates.get(layers, 0.0)

    @cached_property
    def capacity(self) -> Floats:
        """Tokens/s of every link, (nodes + 2) x (nodes + 2), source and sink last.

        A pair that the table leaves out has `min_link_capacity_tokens_per_s`, or no link where that is not given.
        Source and sink reach every node without a limit unless the table lists links of theirs.
        """
        n = self.nodes
        least = self.min_link_capacity_tokens_per_s
        default = (inf if least is None else least) if not self.links else (least or 0.0)
        matrix = np.full((n + 2, n + 2), default)
        if self.links:
            listed = {end for first, last, _ in self.links for end in (first, last)}
            matrix[n] = default if n in listed else inf
            matrix[:, n + 1] = default if n + 1 in listed else inf
        for first, last, rate in self.links:
            matrix[first, last] = rate
        np.fill_diagonal(matrix, 0.0)
        return matrix

    @cached_property
    def links_from(self) -> list[list[float]]:
        """`capacity` as lists, which plain Python reads faster."""
        rows: list[list[float]] = self.capacity.tolist()
        return rows

    @cached_property
    def links_bind(self) -> bool:
        """Whether some link is slower than both of its ends can be."""
        fastest = [max(kind.rates.values()) for kind in self.node_types]
        ends = np.array([fastest[t] for t in self.type_of] + [inf, inf])
        need = np.minimum.outer(ends, ends)
        n = self.nodes
        need[n:, n:] = need[:, n] = need[n + 1] = 0.0
        np.fill_diagonal(need, 0.0)
        return bool((self.capacity < need).any())


_ANNOTATIONS = re.compile(r"published_|recomputed_|work_bound$|note|source$|comment|description")
_RATES = ("tokens_per_s", "tokens/s", "capacity_tokens_per_s")


def instance_from(data: object, where: str) -> Instance:
    """An instance from its mapping in a file. Published results that it carries beside the problem are not read."""
    if not isinstance(data, dict):
        raise InputError(where, describe(data), "a mapping with name, layers and node_types")
    known = ["name", "layers", "node_types", "min_link_capacity_tokens_per_s", "links"]
    for key in data:
        near = nearest_name(str(key), known)
        if key not in known and near and not _ANNOTATIONS.match(str(key)):
            raise InputError(f"{where}.{key}", "unknown key", "one of " + ", ".join(known), near)
    values = {"name": where, **{key: data[key] for key in known[:-1] if key in data}}
    try:
        instance = build(Instance, values)
        links = _links(data.get("links") or (), instance)
    except InputError as error:
        raise error.at(where) from None
    return Instance(instance.name, instance.layers, instance.node_types, instance.min_link_capacity_tokens_per_s, links)


def _links(rows: object, instance: Instance) -> tuple[tuple[int, int, float], ...]:
    """The rows of a `links` table: [from, to, tokens/s], or a mapping with from, to and tokens_per_s."""
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        raise InputError("links", describe(rows), "a list of links: from, to, tokens/s")
    ends = _endpoints(instance)
    links = []
    for number, row in enumerate(rows):
        where = f"links[{number}]"
        first, last, rate = _row(row, where)
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < inf:
            raise InputError(f"{where}.tokens_per_s", describe(rate), "tokens/s, 0 or more")
        pairs = [(i, j) for i in _nodes(first, ends, f"{where}.from") for j in _nodes(last, ends, f"{where}.to")]
        links += [(i, j, float(rate)) for i, j in pairs if i != j]
    return tuple(links)


def _row(row: object, where: str) -> tuple[Any, Any, Any]:
    if isinstance(row, list | tuple) and len(row) == 3:
        return row[0], row[1], row[2]
    if isinstance(row, dict):
        rate = next((row[key] for key in _RATES if key in row), None)
        if {"from", "to"} <= row.keys() and rate is not None:
            return row["from"], row["to"], rate
    raise InputError(where, describe(row), "[from, to, tokens/s] or a mapping with from, to and tokens_per_s")


def _endpoints(instance: Instance) -> dict[str, list[int]]:
    """What a link may name: a node's number, a type (all its nodes), `type-number` within the type, source and sink."""
    n = instance.nodes
    ends = {str(i): [i] for i in range(n)} | {"source": [n], "sink": [n + 1]}
    for t, kind in enumerate(instance.node_types):
        mine = [i for i, other in enumerate(instance.type_of) if other == t]
        if kind.name:
            ends[kind.name] = mine
            ends.update({f"{kind.name}-{number}": [i] for number, i in enumerate(mine)})
    return ends


def _nodes(name: object, ends: dict[str, list[int]], where: str) -> list[int]:
    if isinstance(name, bool) or str(name) not in ends:
        raise unknown_name(where, "node", str(name), ends)
    return ends[str(name)]
