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
