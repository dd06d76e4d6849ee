"""Layer placement: flows, bounds and placements against linear programs, exhaustive search and published results."""

from __future__ import annotations

import itertools
import json
import os
import random
import time
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_flow

from servecast.errors import InputError
from servecast.planner.instances import solve_file
from servecast.planner.placement import crossings
from servecast.planner.placement.bound import cover_bound, work_bound
from servecast.planner.placement.crossings import crossing_bound
from servecast.planner.placement.flow import Range, largest_flow
from servecast.planner.placement.instance import Instance, instance_from
from servecast.planner.placement.lanes import lane_prices
from servecast.planner.placement.solve import Placed, place

DATA = Path(os.environ.get("SERVECAST_DATA", "/nonexistent"), "planner-instances")
OWN = Path(__file__).parents[2] / "configs" / "planner-instances"


def random_instance(seed: int, *, links: bool, nodes: int = 4) -> Instance:
    """A small cluster with whole numbers, so that scipy's integer flow is exact."""
    draw = random.Random(seed)
    types: list[dict[str, Any]] = []
    while (left := nodes - sum(kind["count"] for kind in types)) > 0:
        speed = draw.randint(60, 200)
        table = {str(k): max(1, round(speed / k * draw.uniform(0.8, 1.2))) for k in range(1, draw.randint(2, 4))}
        types.append({"count": draw.randint(1, min(2, left)), "throughput_tokens_per_s_by_layers_held": table})
    room = sum(kind["count"] * len(kind["throughput_tokens_per_s_by_layers_held"]) for kind in types)
    data: dict[str, Any] = {"layers": min(room, draw.randint(4, 6)), "node_types": types}
    if links:
        pairs = itertools.permutations(range(nodes), 2)
        data["links"] = [[i, j, draw.choice([draw.randint(3, 40), 300])] for i, j in pairs if draw.random() < 0.9]
    return instance_from(data, f"random {seed}")


def integer_flow(instance: Instance, ranges: tuple[Range, ...]) -> int:
    """The largest flow by scipy: an edge for each node, and one from where a range ends to where the next begins."""
    n, big = instance.nodes, 10**6
    edges = np.zeros((2 * n + 2, 2 * n + 2), np.int32)
    for i, (start, held) in enumerate(ranges):
        if not held:
            continue
        edges[i, n + i] = instance.rate(instance.type_of[i], held)
        edges[2 * n, i] = min(instance.capacity[n, i], big) if start == 0 else 0
        edges[n + i, 2 * n + 1] = min(instance.capacity[i, n + 1], big) if start + held == instance.layers else 0
        for j, (other, also) in enumerate(ranges):
            if also and other == start + held:
                edges[n + i, j] = min(instance.capacity[i, j], big)
    return int(maximum_flow(csr_matrix(edges), 2 * n, 2 * n + 1).flow_value)


def options(instance: Instance, node: int) -> list[Range]:
    """Every range that a node may hold, and none."""
    held = instance.node_types[instance.type_of[node]].rates
    return [(0, 0), *((start, k) for k in held for start in range(instance.layers - k + 1))]


def exhaustive(instance: Instance) -> float:
    """The best flow over all placements; those whose layers cannot carry more than the best need no look."""
    choices = [options(instance, i) for i in range(instance.nodes)]
    rates = []
    for i, mine in enumerate(choices):
        layers = np.arange(instance.layers)
        rates.append([[instance.rate(instance.type_of[i], k) * ((s <= layers) & (layers < s + k)) for s, k in mine]])
    least = np.zeros((1, instance.layers))
    for own in rates:
        least = (least[:, None, :] + np.array(own)).reshape(-1, instance.layers)
    most = least.min(axis=1)
    best = 0.0
    for index in np.argsort(-most, kind="stable").tolist():
        if most[index] <= best:
            break
        picks = np.unravel_index(index, [len(mine) for mine in choices])
        ranges = tuple(mine[int(p)] for mine, p in zip(choices, picks, strict=True))
        best = max(best, integer_flow(instance, ranges))
    return best


def check_solution(placed: Placed) -> None:
    """Every node holds a range that it may hold, the links carry what they may, and what enters a node leaves it."""
    instance = placed.instance
    for i, (start, held) in enumerate(placed.ranges):
        assert (start, held) in options(instance, i)
    into, out = np.zeros(instance.nodes + 2), np.zeros(instance.nodes + 2)
    for (i, j), rate in placed.links.items():
        assert 0 < rate <= instance.capacity[i, j] * (1 + 1e-9)
        end = 0 if i == instance.nodes else sum(placed.ranges[i])
        assert end == (instance.layers if j == instance.nodes + 1 else placed.ranges[j][0])
        out[i] += rate
        into[j] += rate
    assert into[:-2] == pytest.approx(out[:-2])
    assert out[-2] == pytest.approx(placed.value) and into[-1] == pytest.approx(placed.value)
    for i, (_, held) in enumerate(placed.ranges):
        assert into[i] <= instance.rate(instance.type_of[i], held) * (1 + 1e-9) + 1e-9
    assert placed.value <= placed.bound * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(40))
def test_our_flow_is_the_largest(seed: int) -> None:
    draw = random.Random(seed)
    instance = random_instance(seed, links=True, nodes=7)
    ranges = tuple(draw.choice(options(instance, i)) for i in range(instance.nodes))
    assert largest_flow(instance, ranges).value == pytest.approx(integer_flow(instance, ranges))


@pytest.mark.parametrize("links", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_the_placement_is_the_best_there_is(seed: int, links: bool) -> None:
    instance = random_instance(seed, links=links)
    best = exhaustive(instance)
    placed = place(instance, time_limit=30.0)
    check_solution(placed)
    assert placed.value == pytest.approx(best) and placed.gap == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("seed", range(12))
def test_bounds_hold_and_each_is_sharper_than_the_last(seed: int) -> None:
    instance = random_instance(seed, links=True)
    best, deadline = exhaustive(instance), time.monotonic() + 30
    covered = cover_bound(instance, 0.0, deadline)
    assert best * (1 - 1e-9) <= crossing_bound(instance, 0.0, covered, deadline) <= covered
    assert covered <= work_bound(instance) * (1 + 1e-6)


def regional_instance(seed: int) -> Instance:
    """Four or five nodes in up to three regions, with slow links between them; some with limits at the ends, too."""
    draw = random.Random(seed)
    nodes, regions, types, place = draw.choice([4, 4, 5]), draw.choice([2, 2, 3]), [], list[int]()
    while len(place) < nodes:
        speed, count = draw.randint(60, 200), min(nodes - len(place), draw.randint(1, 3))
        table = {str(k): max(1, round(speed / k ** draw.uniform(0.8, 1.3))) for k in range(1, draw.randint(2, 4))}
        types.append({"count": count, "throughput_tokens_per_s_by_layers_held": table})
        place += [draw.randrange(regions)] * count
    room = sum(kind["count"] * len(kind["throughput_tokens_per_s_by_layers_held"]) for kind in types)
    between, within = draw.choice([5, 12, 20, 30]), draw.choice([20, 40, 400, 400])
    pairs = itertools.permutations(range(nodes), 2)
    links: list[Any] = [[i, j, within if place[i] == place[j] else between] for i, j in pairs]
    if draw.random() < 0.3:
        links += [[i, "sink", draw.choice([20, 50, 500])] for i in range(nodes)]
        links += [["source", i, draw.choice([20, 50, 500])] for i in range(nodes) if draw.random() < 0.7]
    return instance_from({"layers": min(room, 9 - nodes), "node_types": types, "links": links}, f"{seed}")


@pytest.mark.parametrize("seed", range(20))
def test_the_crossing_bound_holds_between_regions(seed: int) -> None:
    instance = regional_instance(seed)
    covered = cover_bound(instance, 0.0, inf)
    assert exhaustive(instance) * (1 - 1e-9) <= crossing_bound(instance, 0.0, covered, inf) <= covered


def test_the_crossing_bound_is_exact_where_every_node_is_needed() -> None:
    """Two nodes of two layers each on either side hold the eight layers; between them are four links of 10 tokens/s."""
    kind = {"count": 2, "throughput_tokens_per_s_by_layers_held": {"1": 300, "2": 100}}
    inside = [[i, j, 5000] for i, j in [(0, 1), (1, 0), (2, 3), (3, 2)]]
    between = [[i, j, 10] for i in (0, 1) for j in (2, 3)] + [[j, i, 10] for i in (0, 1) for j in (2, 3)]
    instance = instance_from({"layers": 8, "node_types": [kind, kind], "links": inside + between}, "halves")
    assert crossing_bound(instance, 0.0, 100.0, inf) == pytest.approx(10, rel=1e-4) == exhaustive(instance)


@pytest.mark.parametrize(("capacity", "mixed", "looped"), [(0.3, False, False), (0.3, True, False), (0.15, True, True)])
def test_lane_prices_hold_at_every_junction_and_are_reached(capacity: float, mixed: bool, looped: bool) -> None:
    """Junctions of up to eight nodes that end and begin, with any shares of their flow over other links."""
    prices = lane_prices(capacity, 8, 8, mixed=mixed, looped=looped)
    closest = dict.fromkeys(prices, inf)
    for e, b, share, split in itertools.product(range(1, 9), range(1, 9), np.linspace(0, 1, 5), np.linspace(0, 1, 5)):
        flow = min(1.0, capacity * e * b)
        rest = share * (1 - flow) if mixed else 0.0
        for p, q in prices:
            left = p * (e - rest * split) + q * (b - rest * (1 - split)) - flow
            closest[p, q] = min(closest[p, q], left)
    assert min(closest.values()) >= -1e-9 and (looped or max(closest.values()) <= 1e-9)


@pytest.mark.parametrize("file", ["placement.json", "placement-links.json"])
def test_our_own_instances_against_exhaustive_search(file: str) -> None:
    data = json.loads((OWN / file).read_text())
    instance = instance_from(data, data["name"])
    assert instance.links_bind == ("links" in data)
    (result,) = solve_file(OWN / file, solver="highs", time_limit=30.0, seed=0)
    assert result["value"] == pytest.approx(exhaustive(instance)) and result["status"] == "optimal"


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the published instances in SERVECAST_DATA")
def test_published_instances_are_solved_to_proven_optimality() -> None:
    """286.587 is Gurobi's proven optimum; the others are the best values known, and our bound shows them optimal."""
    published = json.loads((DATA / "layer_placement.json").read_text())
    results = solve_file(DATA / "layer_placement.json", solver="highs", time_limit=60.0, seed=0)
    for result, known in zip(results, published, strict=True):
        assert result["value"] == pytest.approx(known["recomputed_objective"], rel=1e-6)
        assert result["value"] >= known["published_gurobi_objective"] * (1 - 1e-6)
        assert (result["gap"], result["status"]) == (0, "optimal")
        assert result["bound"] <= known["work_bound"] * (1 + 1e-6)


def two_regions(cross: float) -> Instance:
    """Two like halves, each with room for all layers, and links of `cross` tokens/s between them."""
    kind = {"count": 3, "throughput_tokens_per_s_by_layers_held": {str(k): round(600 / k, 1) for k in range(1, 6)}}
    inside = [[i, j, 5000] for half in (range(3), range(3, 6)) for i, j in itertools.permutations(half, 2)]
    between = [[i, j, cross] for i in range(3) for j in range(3, 6)] + [
        [j, i, cross] for i in range(3) for j in range(3, 6)
    ]
    return instance_from({"layers": 12, "node_types": [kind, kind], "links": inside + between}, "regions")


def test_regions_with_hardly_a_link_between_them_work_apart() -> None:
    """Each half alone carries 150 tokens/s, three nodes with four layers each."""
    placed = place(two_regions(1.0), time_limit=6.0)
    check_solution(placed)
    assert placed.value >= 300 - 1e-6


def test_a_short_limit_still_leaves_an_answer_and_a_valid_bound() -> None:
    draw = random.Random(3)
    types = [
        {"count": 5, "throughput_tokens_per_s_by_layers_held": {str(k): round(speed / k**1.1, 3) for k in range(1, 15)}}
        for speed in (draw.uniform(2000, 9000) for _ in range(8))
    ]
    placed = place(instance_from({"layers": 100, "node_types": types}, "large"), time_limit=1.0)
    check_solution(placed)
    assert 0 < placed.value <= placed.bound


def test_the_same_seed_gives_the_same_placement_where_time_does_not_decide() -> None:
    first, second = (place(random_instance(2, links=False), time_limit=30.0) for _ in range(2))
    assert first.ranges == second.ranges and first.value == second.value


# -- what a file may say ------------------------------------------------------------------------------------------

KEY = "throughput_tokens_per_s_by_layers_held"
NODES = {"count": 2, "name": "gpu", KEY: {"1": 100.0, "2": 60.0}}


def read(**values: Any) -> Instance:
    return instance_from({"layers": 3, "node_types": [NODES, {**NODES, "name": "", "count": 1}], **values}, "x")


def test_links_name_nodes_types_and_the_ends() -> None:
    links = [[0, 2, 5.0], {"from": "gpu", "to": 2, "tokens_per_s": 7}, ["gpu-1", "sink", 9], ["source", "0", 4]]
    capacity = read(links=links).capacity
    assert capacity[0, 2] == capacity[1, 2] == 7 and capacity[1, 4] == 9 and capacity[3, 0] == 4
    assert capacity[0, 1] == 0 and capacity[3, 1] == 0 and capacity[0, 4] == 0  # tables are complete


def test_ends_that_no_link_names_have_no_limit() -> None:
    instance = read(links=[[0, 2, 5.0]])
    assert np.isinf(instance.capacity[3, :3]).all() and np.isinf(instance.capacity[:3, 4]).all()


def test_the_least_capacity_holds_for_links_left_out() -> None:
    assert read(links=[[0, 2, 500.0]], min_link_capacity_tokens_per_s=50).capacity[2, 0] == 50
    assert (
        not read(min_link_capacity_tokens_per_s=100).links_bind and read(min_link_capacity_tokens_per_s=99).links_bind
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"layers": 0}, "layers: 0"),
        ({"node_types": []}, "at least one type"),
        ({"layer": 3}, "did you mean 'layers'"),
        ({"node_types": [{**NODES, "count": 0}]}, "count: 0"),
        ({"node_types": [{**NODES, "throughput_tokens_per_s_by_layers_held": {"0": 1}}]}, "from 1 on"),
        ({"node_types": [{**NODES, "throughput_tokens_per_s_by_layers_held": {"1": -1}}]}, "above 0"),
        ({"links": [[0, 9, 5]]}, r"links\[0\].to: no node is called '9'"),
        ({"links": [[0, "gpux", 5]]}, "did you mean 'gpu'"),
        ({"links": [[0, 1]]}, r"links\[0\]"),
        ({"links": [[0, 1, -5]]}, "0 or more"),
        ({"links": {"0": 1}}, "a list of links"),
    ],
)
def test_bad_instances_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        read(**values)


def test_too_few_nodes_are_refused_with_the_count() -> None:
    with pytest.raises(InputError, match="hold 6 layers at most; expected room for 9"):
        place(read(layers=9))


def test_nodes_that_only_hold_more_layers_than_there_are_have_no_room() -> None:
    with pytest.raises(InputError, match="hold 0 layers at most; expected room for 1"):
        place(instance_from({"layers": 1, "node_types": [{**NODES, KEY: {"2": 60.0}}]}, "x"))


def test_the_crossing_bound_ends_where_nothing_can_flow() -> None:
    instance = read(links=[[0, 1, 0.0], [1, 0, 0.0]])
    assert crossing_bound(instance, 0.0, 100.0, inf) < 0.01


def test_without_highspy_links_do_not_lower_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossings, "default_solver", lambda: "scipy")
    assert crossing_bound(read(links=[[0, 1, 0.0], [1, 0, 0.0]]), 0.0, 100.0, inf) == 100
