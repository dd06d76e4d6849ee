"""Inventories that let the planner choose policies and techniques, and that name measured times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from servecast.configs.catalog import find
from servecast.configs.strict import build
from servecast.errors import InputError
from servecast.planner.candidates import find_candidates, fleet_plan, plan_values
from servecast.planner.inventory import Inventory, load_inventory
from servecast.traces.table import RequestTable

TABLE = RequestTable(np.arange(5.0), np.full(5, 400), np.full(5, 20))
BASE = {
    "model": "llama-3.1-8b", "gpus": {"h100": {"count": 2}}, "tensor_parallel_size": [1],
    "max_num_batched_tokens": [None],
}  # fmt: skip


def inventory(**more: Any) -> Inventory:
    return build(Inventory, {**BASE, **more})


def test_every_combination_of_choices_is_a_candidate_with_a_name_of_its_own() -> None:
    speculation = {"speculation": {"tokens": 2, "acceptance": 0.7}}
    choices = {"batch": [None, "sarathi"], "gpu_memory_utilization": [None, 0.8], "techniques": [None, speculation]}
    found, rejected = find_candidates(inventory(choices=choices), TABLE)
    assert not rejected
    assert [c.name.removeprefix("h100-tp1-pp1") for c in found] == [
        "", "-techniques", "-gpu_memory_utilization0.8", "-gpu_memory_utilization0.8-techniques",
        "-sarathi", "-sarathi-techniques", "-sarathi-gpu_memory_utilization0.8",
        "-sarathi-gpu_memory_utilization0.8-techniques",
    ]  # fmt: skip
    kv = {c.name: c.kv_tokens for c in found}
    assert kv["h100-tp1-pp1-gpu_memory_utilization0.8"] < kv["h100-tp1-pp1"]


def test_options_of_one_policy_are_numbered() -> None:
    choices = {"queue": [{"name": "plas"}, {"name": "plas", "levels": 3}, None]}
    asked = inventory(choices=choices)
    found = find_candidates(asked, TABLE)
    assert [c.name for c in found[0]] == ["h100-tp1-pp1-plas1", "h100-tp1-pp1-plas2", "h100-tp1-pp1"], found


def test_the_plan_file_says_all_that_was_chosen() -> None:
    asked = inventory(
        choices={"batch": [{"name": "sarathi"}]}, defaults={"gpu_memory_utilization": 0.85},
        plan={"predictor": {"name": "oracle"}, "clients": {"timeout": 30}},
    )  # fmt: skip
    (candidate,), _ = find_candidates(asked, TABLE)
    values = yaml.safe_load(yaml.safe_dump(plan_values(asked, [candidate.pool])))
    assert values["predictor"] == {"name": "oracle"} and values["clients"] == {"timeout": 30}
    assert values["pools"][0]["batch"] == {"name": "sarathi"}
    assert values["pools"][0]["gpu_memory_utilization"] == 0.85
    assert fleet_plan(asked, [candidate.pool]).pools == (candidate.pool,)


def test_a_kind_of_gpu_has_defaults_of_its_own() -> None:
    asked = inventory(
        gpus={"h100": {"count": 1, "defaults": {"gpu_memory_utilization": 0.7}}, "l40s": {"count": 1}},
        defaults={"gpu_memory_utilization": 0.8},
    )
    shares = {c.gpu: c.pool.gpu_memory_utilization for c in find_candidates(asked, TABLE)[0]}
    assert shares == {"h100": 0.7, "l40s": 0.8}


def test_paths_start_at_the_inventory(tmp_path: Path) -> None:
    """The plan is written to another folder, so it holds whole paths."""
    text = yaml.safe_dump({
        **BASE, "defaults": {"cost": "a.zip"}, "plan": {"cost": "roofline"}, "choices": {"cost": ["b.zip", "roofline"]},
        "gpus": {"h100": {"count": 1, "defaults": {"cost": "deep/c.zip"}}},
    })  # fmt: skip
    (tmp_path / "inventory.yaml").write_text(text)
    asked = load_inventory(tmp_path / "inventory.yaml")
    assert asked.defaults["cost"] == str(tmp_path / "a.zip") and asked.plan["cost"] == "roofline"
    assert asked.choices["cost"] == (str(tmp_path / "b.zip"), "roofline")
    assert asked.gpus["h100"].defaults["cost"] == str(tmp_path / "deep/c.zip")


def test_cards_of_the_users_own_start_at_the_inventory_too(tmp_path: Path) -> None:
    """Wherever the command runs, and in the plan that it writes."""
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "mine.yaml").write_bytes(find("hardware", "h100").read_bytes())
    gpus = {"mine": {"count": 1, "hardware": "cards/mine.yaml"}, "l40s": {"count": 1}}
    (tmp_path / "inventory.yaml").write_text(yaml.safe_dump({**BASE, "gpus": gpus}))
    asked = load_inventory(tmp_path / "inventory.yaml")
    hardware = {c.gpu: c.pool.hardware for c in find_candidates(asked, TABLE)[0]}
    assert hardware == {"mine": str(tmp_path / "cards" / "mine.yaml"), "l40s": "l40s"}


def test_times_that_cannot_be_read_rule_a_replica_out() -> None:
    found, rejected = find_candidates(inventory(defaults={"cost": "/nowhere/h100.zip"}), TABLE)
    assert not found and "/nowhere/h100.zip" in rejected[0].reason


@pytest.mark.parametrize("place", ["choices", "defaults", "gpus.h100.defaults"])
def test_policies_that_there_are_not(place: str) -> None:
    given: dict[str, Any] = {"choices": {"queue": [None, "fcsf"]}, "defaults": {"queue": "fcsf"}}
    given["gpus.h100.defaults"] = {"h100": {"count": 1, "defaults": {"queue": "fcsf"}}}
    with pytest.raises(InputError, match=r"fcsf.*did you mean.*fcfs") as raised:
        find_candidates(inventory(**{place.split(".")[0]: given[place]}), TABLE)
    assert raised.value.where == f"{place}.queue"


@pytest.mark.parametrize(
    ("more", "where", "nearest"),
    [
        ({"choices": {"replicas": [1, 2]}}, "choices.replicas", ""),
        ({"choices": {"btach": ["sarathi"]}}, "choices.btach", "batch"),
        ({"choices": {"batch": []}}, "choices.batch", ""),
        ({"choices": {"gpu_memory_utilization": [2.0]}}, "choices.gpu_memory_utilization", ""),
        ({"defaults": {"tensor_parallel_size": 2}}, "defaults.tensor_parallel_size", ""),
        ({"gpus": {"h100": {"count": 1, "defaults": {"cots": "x"}}}}, "gpus.h100.defaults.cots", "cost"),
        ({"plan": {"pools": []}}, "plan.pools", ""),
        ({"plan": {"predictr": {"name": "oracle"}}}, "plan.predictr", "predictor"),
        ({"plan": {"clients": {"timeout": -1}}}, "plan.clients.timeout", ""),
    ],
)
def test_mistakes_are_named(more: dict[str, Any], where: str, nearest: str) -> None:
    with pytest.raises(InputError) as raised:
        inventory(**more)
    assert raised.value.where == where and nearest in str(raised.value)


@pytest.mark.parametrize(("key", "nearest"), [("kv_cache_dtype", "fp8"), ("quantization", "fp8")])
def test_number_formats_that_there_are_not(key: str, nearest: str) -> None:
    with pytest.raises(InputError, match=f"fpp8.*did you mean.*{nearest}") as raised:
        find_candidates(inventory(**{key: ["fpp8"]}), TABLE)
    assert raised.value.where == key
