"""GPU mixes: the published example, exhaustive search, and what a file may not say."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import linprog

from servecast.errors import InputError
from servecast.planner.gpu_mix import GpuMix, cheapest_mix, mix_from
from servecast.planner.instances import solve_file

DATA = Path(os.environ.get("SERVECAST_DATA", "/nonexistent"), "planner-instances")
OWN = Path(__file__).parents[2] / "configs" / "planner-instances"


def example() -> dict[str, Any]:
    """The shape of Melange's example with numbers of our own: one large GPU, or several small ones."""
    return {
        "gpus": {
            "small": {"cost_per_h": 1.0, "max_req_s": [[2, 1], [4, None]]},
            "large": {"cost_per_h": 3.5, "max_req_s": [[11, 9], [18, 12]]},
        },
        "workload_share": [[0.3, 0.2], [0.4, 0.1]],
        "request_rate": 20.0,
    }


def serves(mix: GpuMix, counts: dict[str, int], slices: int | None) -> bool:
    """Whether so many GPUs can take the load: by a linear program, or by trying every assignment of slices."""
    buckets, gpus = mix.buckets(), list(mix.gpus)
    use = [[rate / r if (r := mix.gpus[g].max_req_s[i][j]) else np.inf for g in gpus] for i, j, rate in buckets]
    if slices is None:
        cells = [(b, g) for b in range(len(buckets)) for g in range(len(gpus)) if np.isfinite(use[b][g])]
        loads = [[use[b][g] * (g == k) for b, g in cells] for k in range(len(gpus))]
        whole = [[float(b == k) for b, _ in cells] for k in range(len(buckets))]
        limits = [counts[g] + 1e-9 for g in gpus]
        return linprog(np.zeros(len(cells)), loads, limits, whole, np.ones(len(buckets))).status == 0
    for choice in itertools.product(range(len(gpus)), repeat=len(buckets) * slices):
        load = np.zeros(len(gpus))
        for part, g in enumerate(choice):
            load[g] += use[part // slices][g] / slices
        if all(load[k] <= counts[g] + 1e-9 for k, g in enumerate(gpus)):
            return True
    return False


def exhaustive(mix: GpuMix, most: int, slices: int | None) -> float:
    """The least cost over all counts up to `most` of each type."""
    options = (dict(zip(mix.gpus, n, strict=True)) for n in itertools.product(range(most + 1), repeat=len(mix.gpus)))
    priced = sorted((sum(mix.gpus[g].cost_per_h * n for g, n in c.items()), sorted(c.items())) for c in options)
    return next(cost for cost, counts in priced if serves(mix, dict(counts), slices))


@pytest.mark.parametrize("slices", [None, 1, 2])
def test_the_mix_is_the_cheapest_there_is(slices: int | None) -> None:
    mix = mix_from(example(), "example")
    found = cheapest_mix(mix, "highs", slices=slices)
    assert found and found.outcome.status == "optimal"
    assert found.cost == pytest.approx(exhaustive(mix, 12, slices))


def test_freer_routing_is_never_dearer() -> None:
    mix = mix_from(example(), "example")
    costs = [found.cost for slices in (None, 4, 2, 1) if (found := cheapest_mix(mix, "highs", slices=slices))]
    assert costs == sorted(costs) and costs[0] < costs[-1]


def test_every_bucket_is_served_within_what_the_gpus_can_do() -> None:
    mix = mix_from(example(), "example")
    found = cheapest_mix(mix, "highs")
    assert found
    load = dict.fromkeys(mix.gpus, 0.0)
    for i, j, rate in mix.buckets():
        assert sum(found.shares[i, j].values()) == pytest.approx(1)
        for gpu, share in found.shares[i, j].items():
            load[gpu] += share * rate / (mix.gpus[gpu].max_req_s[i][j] or 0)
    assert all(load[gpu] <= found.counts[gpu] + 1e-6 for gpu in load)


def test_our_own_instance_against_exhaustive_search() -> None:
    (result,) = solve_file(OWN / "mix.json", solver="highs", time_limit=30.0, seed=0)
    mix = mix_from(json.loads((OWN / "mix.json").read_text())["instance"], "mix")
    assert result["value"] == pytest.approx(exhaustive(mix, 9, None)) and result["gap"] == 0


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the published instances in SERVECAST_DATA")
def test_the_published_example() -> None:
    """Melange's own result is 6.70; 5.69 with two slices and 4.68 with continuous shares are in the data's README."""
    (result,) = solve_file(DATA / "gpu_mix.json", solver="highs", time_limit=30.0, seed=0)
    values = [result["value"], *(row["value"] for row in result["restricted"])]
    assert values == pytest.approx([4.68, 6.70, 5.69]) and result["gap"] == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"workload_share": [[0.3, 0.2], [0.4, 0.9]]}, "sum to 1"),
        ({"workload_share": [[1.0]]}, "rows as long as those of workload_share"),
        ({"request_rate": 0}, "requests/s above 0"),
        ({"request_rates": 3}, "did you mean 'request_rate'"),
        ({"gpus": {}}, "at least one GPU type"),
        ({"gpus": {"small": {"cost_per_h": 1, "max_req_s": [[2, 1], [4, 0]]}}}, "a GPU that can serve a bucket"),
        ({"gpus": {"small": {"cost_per_h": -1, "max_req_s": [[2, 1], [4, 1]]}}}, "above 0"),
    ],
)
def test_bad_instances_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        mix_from({**example(), **change}, "example")


@pytest.mark.parametrize("seed", range(3))
def test_freer_modes_are_never_dearer_whatever_the_time(tmp_path: Path, seed: int) -> None:
    """Continuous routing relaxes slices, which relax whole buckets; so do their bounds, even of runs cut short."""
    draw = np.random.default_rng(seed)
    kinds, buckets = 8, 6
    size = draw.uniform(1, 9, kinds)
    speed = 40 * draw.uniform(0.5, 1.5, (kinds, buckets, buckets)) * size[:, None, None] / np.arange(1, buckets + 1)
    share = draw.uniform(0, 1, (buckets, buckets))
    problem = {
        "gpus": {f"g{k}": {"cost_per_h": size[k], "max_req_s": speed[k].tolist()} for k in range(kinds)},
        "workload_share": (share / share.sum()).tolist(), "request_rate": 300.0,
    }  # fmt: skip
    path = tmp_path / "mix.json"
    path.write_text(json.dumps(problem))
    (result,) = solve_file(path, solver="highs", time_limit=0.5, seed=0)
    whole, halves = result["restricted"]
    shown = [row for row in (result, halves, whole) if "value" in row]
    assert shown[0] is result and shown == sorted(shown, key=lambda row: row["value"])
    assert shown == sorted(shown, key=lambda row: row["bound"])
    assert all(row["bound"] <= row["value"] for row in shown)
