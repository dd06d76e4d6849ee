"""A plan's fingerprint is of what it says, not of what it leaves to defaults."""

from __future__ import annotations

import pytest

from servecast.configs.plan import plan_from

PLAN = {"model": "llama-3.1-8b", "engine": "vllm-0.19"}
POOL = {"name": "chat", "hardware": "h100"}


def fingerprint(plan: dict[str, object] | None = None, pool: dict[str, object] | None = None) -> str:
    return plan_from({**PLAN, **(plan or {}), "pools": [{**POOL, **(pool or {})}]}).fingerprint()


@pytest.mark.parametrize("pool", [{"replicas": 1}, {"tensor_parallel_size": 1, "techniques": {}}])
def test_a_default_that_is_written_down_changes_nothing(pool) -> None:
    assert fingerprint(pool=pool) == fingerprint()


@pytest.mark.parametrize(
    ("plan", "pool"),
    [({"router": "random"}, {}), ({}, {"replicas": 2}), ({}, {"eviction": "lfu"}), ({"clients": {"timeout": 5.0}}, {})],
)
def test_everything_else_does(plan, pool) -> None:
    assert fingerprint(plan, pool) != fingerprint()


def test_so_it_is_within_a_part_of_a_plan() -> None:
    tier = {"name": "host", "capacity": 4}
    written = {**tier, "latency": 0.0, "write": "through"}
    assert fingerprint({"tiers": {"levels": [tier]}}) == fingerprint({"tiers": {"levels": [written]}})
    assert fingerprint({"tiers": {"levels": [tier]}}) != fingerprint({"tiers": {"levels": [{**tier, "latency": 0.1}]}})
    assert fingerprint(pool={"techniques": {"kv": "h2o"}}) != fingerprint(pool={"techniques": {"kv": "d2o"}})
