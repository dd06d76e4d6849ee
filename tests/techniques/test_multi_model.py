"""Several models in one plan: pools by label, pools that take turns on one GPU, models that share layers."""

from __future__ import annotations

import runpy
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import servecast
from servecast.cli import main
from servecast.configs.catalog import find_hardware
from servecast.configs.plan import plan_from
from servecast.configs.strict import read_mapping
from servecast.errors import InputError
from servecast.sim.deploy import deploy
from servecast.traces.columns import Labels
from servecast.traces.load import load

FOLDER = Path(servecast.__file__).parent / "configs" / "plans" / "techniques"
STUDY = Path(__file__).parents[2] / "bench" / "studies" / "agentic_stages.py"
MODELS = ("chat", "code", "summary")
TICKS = 1 << 36


def read(name: str) -> dict[str, Any]:
    return read_mapping(FOLDER / f"{name}.yaml")


def mixed(bench, n: int = 90, rate: float = 12.0, models: int = 3):
    """Requests for the models in turn."""
    table = bench.workload(n=n, rate=rate, prompt=400, output=80)
    return replace(table, model=Labels((np.arange(n) % models).astype(np.int32), MODELS[:models]))


def resident(quantum: float = 0.5) -> dict[str, Any]:
    """The plan of shared GPUs with all weights on the device."""
    plan = read("shared-gpus")
    plan["defaults"]["gpu_memory_utilization"] = 0.3
    plan["shared_gpus"] = [{"pools": list(MODELS), "quantum": quantum}]
    return plan


def p95(bench, table, data: dict[str, Any]) -> float:
    done = bench.run(table, plan_from(data))
    assert all(done.invariants.values())
    return bench.report(done)["p95_e2el_ms"]


def iterations(done) -> list[list[tuple[int, int]]]:
    """Of each engine, its leaps from start to end."""
    found = []
    for table in done.recorder.leaps:
        spans = []
        for c in table.slices():
            rows = zip(*(c[key].tolist() for key in ("start", "base", "slope", "iterations")), strict=True)
            spans += [(start, start + k * base + slope * (k * (k - 1) // 2)) for start, base, slope, k in rows]
        found.append(spans)
    return found


# -- pools by label ----------------------------------------------------------------------------------------------


def test_each_request_goes_to_its_model(bench) -> None:
    """The trace's `model` column picks the pool that serves the label."""
    plan = resident()
    del plan["shared_gpus"]
    done = bench.run(mixed(bench), plan_from(plan))
    columns = done.recorder.requests.columns()
    np.testing.assert_array_equal(columns["replica"], columns["index"] % 3)


# -- turns on one GPU --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", [read("shared-gpus"), resident(), resident(0.01)], ids=["loaded", "resident", "brief"])
def test_one_computes_at_a_time_however_far_it_leaps(bench, plan) -> None:
    table = mixed(bench)
    rows = []
    for how in ({}, {"step_by_step": True}):
        done = bench.run(table, plan_from(plan), **how)
        assert all(done.invariants.values())
        spans = sorted(span for engine in iterations(done) for span in engine)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
        columns = done.recorder.requests.columns()
        rows.append(np.stack([c[np.argsort(columns["index"])] for c in columns.values()]))
    np.testing.assert_array_equal(*rows)


def test_who_is_alone_notices_nothing(bench) -> None:
    """A model whose neighbours are idle serves as on a GPU of its own, but for deciding batches ahead."""
    table = mixed(bench, models=1)
    table = replace(table, model=Labels(table.model.codes, MODELS))
    alone = resident()
    alone["defaults"]["async_scheduling"] = False
    shared = deepcopy(alone)
    del alone["shared_gpus"]
    rows = [bench.run(table, plan_from(plan)).recorder.requests.columns() for plan in (alone, shared)]
    for name in rows[0]:
        np.testing.assert_array_equal(rows[0][name], rows[1][name])


def test_weights_cross_the_hosts_link(bench) -> None:
    """Two models in turn, room for one: each request but the first waits for 16 GB of weights."""
    plan = read("shared-gpus")
    plan["shared_gpus"][0]["weight_space"] = 16
    table = mixed(bench, n=6, models=2)
    table = replace(table, arrival=10.0 * np.arange(6), model=Labels(table.model.codes, MODELS))
    done = bench.run(table, plan_from(plan))
    hardware = find_hardware("a100-80gb")
    weights = 2 * 8.03e9  # bytes in BF16
    load = hardware.host.latency + weights / (hardware.host.bandwidth * hardware.achieved.link)
    first = done.recorder.requests.columns()["first_interference"] / TICKS
    assert first[0] == 0
    assert first[1:] == pytest.approx([load] * 5, rel=0.01)
    pools = bench.report(done)["simulation"]["pools"]
    assert [pool["shared_gpus"]["weight_loads"] for pool in pools] == [2, 3, 0]


def test_models_that_always_have_work_get_equal_time(bench) -> None:
    """Three backlogs of equal requests: while all three last, each computes for a third, within two quanta."""
    table = mixed(bench, n=150, rate=1e6)
    table = replace(table, prompt_tokens=np.full(150, 500), output_tokens=np.full(150, 200))
    engines = iterations(bench.run(table, plan_from(resident())))
    until = min(engine[-1][1] for engine in engines)
    busy = [sum(end - start for start, end in engine if end <= until) / TICKS for engine in engines]
    assert max(busy) - min(busy) < 2 * 0.5


def test_a_shared_gpu_is_paid_for_once(bench) -> None:
    alone = resident()
    del alone["shared_gpus"]
    prices = [sum(d.usd_per_hour for d in deploy(plan_from(plan))) for plan in (alone, resident())]
    assert prices[0] == pytest.approx(3 * prices[1])


def test_check_names_the_neighbours(capsys) -> None:
    """`servecast check` says who is on the same accelerators and what weights take to come."""
    assert main(["check", str(FOLDER / "shared-gpus.yaml")]) == 0
    assert "on the same accelerators as code, summary; 15.0 GiB of weights come in 0.68 s" in capsys.readouterr().out


# -- layers in common --------------------------------------------------------------------------------------------


def with_blocks(**blocks: int) -> dict[str, Any]:
    plan = read("blockllm")
    plan["pools"][0]["blocks"] = blocks
    return plan


def test_models_without_layers_of_their_own_are_one(bench) -> None:
    """The same rows as one model that serves everybody."""
    table = mixed(bench)
    one = read("blockllm")
    del one["pools"][0]["blocks"]
    one["pools"][0]["enable_prefix_caching"] = False
    both = (one, with_blocks(private_layers=0))
    rows = [bench.run(table, plan_from(plan)).recorder.requests.columns() for plan in both]
    for name in rows[0]:
        np.testing.assert_array_equal(rows[0][name], rows[1][name])


def test_memory_of_blocks() -> None:
    """Two further models take 8 of 32 layers each: half of a model's layers."""
    none, eight = (deploy(plan_from(with_blocks(private_layers=n)))[0].capacity for n in (0, 8))
    layer = 2 * (4096 * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096 * 14336 + 2 * 4096)
    assert none.kv_bytes - eight.kv_bytes == pytest.approx(2 * 8 * layer)


def test_blocks_of_their_own_batches(bench) -> None:
    """With nothing in common the models cost what they cost in turns on one GPU, an iteration each, but for the host's
    part (its time and the embedding are paid once): within 15 %. The more is in common, and the more of it under load,
    the better. BlockLLM: P95 latency a third lower than without sharing."""
    table = mixed(bench, n=150, rate=10.0)
    turns = p95(bench, table, resident(1e-3))
    apart, some, assembled = (
        p95(bench, table, with_blocks(private_layers=n, equivalent_layers=e)) for n, e in ((32, 0), (8, 0), (8, 8))
    )
    assert apart == pytest.approx(turns, rel=0.15)
    assert assembled < some < 0.66 * turns


def test_blocks_leap_as_they_step(bench) -> None:
    bench.same(plan_from(read("blockllm")), mixed(bench, n=40))


@pytest.mark.parametrize("off", [{"shared_gpus": []}, {"pools": [{"blocks": None}]}])
def test_disabled_changes_nothing(bench, off) -> None:
    """The keys at their defaults give the bytes of a plan without them."""
    plan = {"model": "llama-3.1-8b", "engine": "vllm-0.19"}
    pool = {"name": "pool", "hardware": "h100", "max_model_len": 8192}
    table = bench.workload(n=20)
    without = plan_from({**plan, "pools": [pool]})
    with_ = plan_from({**plan, **off, "pools": [{**pool, **off.get("pools", [{}])[0]}]})
    assert without.fingerprint() == with_.fingerprint()
    assert bench.bytes_of(bench.run(table, without)) == bench.bytes_of(bench.run(table, with_))


# -- bad input ---------------------------------------------------------------------------------------------------

SHARED: list[tuple[dict[str, Any], str]] = [
    ({"pools": ["chat"]}, "two pools"),
    ({"pools": ["chat", "cod"]}, "code"),
    ({"pools": ["chat", "code", "code"]}, "more than once"),
    ({"quantum": 0}, "above 0"),
    ({"weight_space": 10}, "room for the weights"),
    ({"weight_space": 60}, "at most 1 together"),
]


@pytest.mark.parametrize(("change", "words"), SHARED)
def test_gpus_that_cannot_be_shared(change, words) -> None:
    plan = read("shared-gpus")
    plan["shared_gpus"][0] |= change
    with pytest.raises(InputError, match=words):
        deploy(plan_from(plan))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"replicas": 2}, "alike"),
        ({"hardware": "h100"}, "alike"),
        ({"gpu_memory_utilization": 0.9}, "at most 1 together"),
    ],
)
def test_pools_that_cannot_share(change, words) -> None:
    plan = read("shared-gpus")
    plan["pools"][1] |= change
    with pytest.raises(InputError, match=words):
        deploy(plan_from(plan))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"blocks": {"private_layers": 40}}, "at most 32"),
        ({"blocks": {"private_layers": 4, "equivalent_layers": 5}}, "private_layers = 4"),
        ({"serves": ["chat"]}, "two models"),
        ({"enable_prefix_caching": True}, "a prefix is one model's"),
        ({"pipeline_parallel_size": 2}, "none of these"),
        ({"techniques": {"speculation": {"tokens": 1, "acceptance": 0.5}}}, "none of these"),
    ],
)
def test_blocks_that_cannot_be(change, words) -> None:
    plan = read("blockllm")
    plan["pools"][0] |= change
    with pytest.raises(InputError, match=words):
        deploy(plan_from(plan))


def test_layers_are_shared_by_models_or_adapters() -> None:
    with pytest.raises(InputError, match="one of them"):
        deploy(plan_from({**read("blockllm"), "adapters": {"count": 2}}))


def test_models_need_labels(bench) -> None:
    with pytest.raises(InputError, match="model"):
        bench.run(bench.workload(n=5), plan_from(read("blockllm")))


def test_stages_on_gpus_of_their_own_are_cheaper_than_on_one_type() -> None:
    """Both keep the deadlines that the study asks for; the small model does not need the large one's GPU."""
    study = runpy.run_path(str(STUDY))
    found = {fleet.name: fleet for fleet in study["fleets"]()}
    prices = [fleet.price for fleet in found.values()]
    assert prices == sorted(prices)
    mixed, alone = found["1 x 4 a100-80gb + 3 x 1 l40s"], found["1 x 4 a100-80gb + 2 x 1 a100-80gb"]
    assert mixed.price < alone.price
    tables = [load(study["TRACE"])]
    assert all(study["kept"](fleet, tables, 0.99)[0] >= 0.97 for fleet in (mixed, alone))  # 0.99 on average of five
    starved = found["1 x 4 a100-80gb + 1 x 1 rtx-a6000"]
    assert study["kept"](starved, tables, 0.99)[0] < 0.9
