"""Layer placement on instances that are large, thin or broken: an answer, and never one above the bound."""

from __future__ import annotations

import random
from math import inf
from typing import Any

import pytest

from servecast.planner.placement.bound import work_bound
from servecast.planner.placement.flow import largest_flow
from servecast.planner.placement.instance import instance_from
from servecast.planner.placement.regions import RegionPlanner, find_regions
from servecast.planner.placement.solve import Placed, place
from servecast.traces.streams import Stream

KEY = "throughput_tokens_per_s_by_layers_held"


def solved(layers: int, types: list[tuple[int, float, int]], links: Any = (), limit: float = 1.0) -> Placed:
    """types : nodes, tokens/s with one layer, layers at most; half as fast with twice the layers."""
    kinds = [{"count": n, KEY: {str(k): top / k for k in range(1, most + 1)}} for n, top, most in types]
    return place(
        instance_from({"name": "odd", "layers": layers, "node_types": kinds, "links": list(links)}, "x"), limit
    )


def test_one_node() -> None:
    assert solved(3, [(1, 900.0, 3)]).value == pytest.approx(300)
    through = solved(3, [(1, 900.0, 3)], [["source", 0, 50], [0, "sink", 60]])
    assert through.value == through.bound == 50


def test_nodes_that_no_link_joins() -> None:
    apart = solved(4, [(2, 1000.0, 3)], [[0, 1, 0], [1, 0, 0]])
    assert apart.value == apart.bound == 0


def test_a_single_way_through() -> None:
    """Six nodes in a line: all of them are needed, in that order, and the slowest link or node binds."""
    line = solved(12, [(6, 1000.0, 2)], [[i, i + 1, 100 + i] for i in range(5)])
    assert line.value == line.bound == 100


def test_sparse_links_are_followed() -> None:
    """Of 20 nodes, each linked to few others, local changes alone find no way; a chain along the links is one."""
    draw = random.Random(1)
    links = [[i, j, draw.uniform(100, 2000)] for i in range(20) for j in range(20) if i != j and draw.random() < 0.3]
    placed = solved(40, [(10, 5000.0, 8), (10, 2500.0, 6)], links)
    assert 0 < placed.value <= placed.bound
    assert largest_flow(placed.instance, placed.ranges).value == pytest.approx(placed.value)


def test_slow_links_everywhere_take_many_lanes() -> None:
    """Of twelve nodes six end where the others begin: 36 links of 34 tokens/s carry the 1200 that the nodes can do."""
    everywhere = [[i, j, 34] for i in range(12) for j in range(12) if i != j]
    placed = solved(12, [(12, 1200.0, 6)], everywhere, limit=8.0)
    assert placed.value == pytest.approx(1200) and placed.gap == 0


@pytest.mark.parametrize("wanted", [100, 140, 200])
def test_segments_at_a_crossing_are_as_wide_as_it_takes(wanted: float) -> None:
    """Two regions of fast and slow nodes; a lane that is faster than the others may not count for two."""
    sizes, place = [(2, 900.0, 4), (4, 400.0, 3)] * 2, [0] * 6 + [1] * 6
    kinds = [{"count": n, KEY: {str(k): top / k for k in range(1, most + 1)}} for n, top, most in sizes]
    links = [[i, j, 9999 if place[i] == place[j] else 40] for i in range(12) for j in range(12) if i != j]
    instance = instance_from({"name": "two", "layers": 24, "node_types": kinds, "links": links}, "x")
    planner = RegionPlanner(instance, find_regions(instance, range(12), wanted))
    placements = list(planner.placements(wanted, inf, Stream(0, "test"), 0))
    assert placements
    assert all(largest_flow(instance, ranges).value >= wanted * (1 - 1e-9) for ranges in placements)


def test_a_proof_that_takes_too_long_leaves_a_valid_bound() -> None:
    """Without a look at the clock the cheapest covers of 100 nodes of five types take minutes."""
    kinds = [(20, 3000.0 * (t + 1), 12) for t in range(5)]
    placed = solved(120, kinds, [[i, j, 3000.0] for i in range(100) for j in range(100) if i != j])
    assert 0 < placed.value <= placed.bound <= work_bound(placed.instance)
