"""The plans that change where work goes or who goes first: each runs with its technique and without, and it matters."""

from __future__ import annotations

import dataclasses
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import servecast
from servecast.configs.plan import plan_from
from servecast.configs.strict import read_mapping
from servecast.errors import InputError
from servecast.sim.deploy import deploy
from servecast.traces.columns import Labels, PrefixBlocks

FOLDER = Path(servecast.__file__).parent / "configs" / "plans" / "techniques"
TECHNIQUE = {  # plan -> the keys, of the plan or of its pools, that are its technique
    "vtc": ("queue",),
    "ltr": ("batch", "queue", "predictor"),
    "fastswitch": ("batch", "queue", "kv"),
    "niyama": ("batch",),
    "longest-prefix": ("queue",),
    "s-lora": ("adapters",),
    "punica": ("adapters", "router"),
    "semantic-cache": ("semantic_cache",),
    "ic-cache": ("router", "prepend_tokens"),
    "lamina": ("attention_workers", "batch"),
    "expert-offload": ("experts",),
    "read-me": ("experts",),
    "expert-parallel": ("experts",),
    "expertweave": ("experts",),
    "nexus": ("streams", "batch"),
    "infinite-llm": ("kv_borrowing",),
    "cloudmatrix384": ("experts",),
}
STARTS_ONLY_WITH = {
    "infinite-llm": "at most",
    "expert-offload": "leaves no room",
    "read-me": "leaves no room",
    "cloudmatrix384": "a divisor of 256",
}


def without(data: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    bare = deepcopy(data)
    for part in (bare, bare.get("defaults", {}), *bare["pools"]):
        for key in keys:
            part.pop(key, None)
    return bare


def workload(bench, n: int = 90):
    """Three tenants and four conversations."""
    table = bench.workload(n=n, rate=25.0)
    tenants = Labels((np.arange(n) % 3 % 2).astype(np.int32), ("a", "b"))
    ids = [[i * 5 % 4 * 1000 + j for j in range(p // 16)] for i, p in enumerate(table.prompt_tokens.tolist())]
    kinds = Labels((np.arange(n) % 5 % 2).astype(np.int32), ("code", "chat"))
    return dataclasses.replace(table, tenant=tenants, request_class=kinds, blocks=PrefixBlocks.of(16, "floor", ids))


@pytest.mark.parametrize("name", TECHNIQUE)
def test_with_and_without(name: str, bench) -> None:
    data = read_mapping(FOLDER / f"{name}.yaml")
    bare = without(data, TECHNIQUE[name])
    assert bare != data
    plans = [data, bare]
    if name in STARTS_ONLY_WITH:
        with pytest.raises(InputError, match=STARTS_ONLY_WITH[name]):
            deploy(plan_from(plans.pop(), name, FOLDER))
    runs = [bench.run(workload(bench), plan_from(values, name, FOLDER)) for values in plans]
    for done in runs:
        assert all(done.invariants.values())
    assert len({tuple(done.recorder.requests.columns()["ended"]) for done in runs}) == len(plans)


ONE_RANK_ONE_STREAM = sorted(TECHNIQUE.keys() - {"cloudmatrix384", "expert-parallel", "nexus"})  # what the oracle walks


@pytest.mark.parametrize("name", ONE_RANK_ONE_STREAM)
def test_leap_is_step_by_step_is_the_oracle(name: str, bench) -> None:
    bench.same(plan_from(read_mapping(FOLDER / f"{name}.yaml"), name, FOLDER), workload(bench, n=40))
