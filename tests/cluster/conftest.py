"""A small cluster: one plan through the leaping engine, step by step, and through the list-walking oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from servecast.configs.plan import Plan, plan_from
from servecast.sim.records import COMPONENTS
from servecast.sim.run import Run, run
from servecast.traces.columns import Labels, PrefixBlocks
from servecast.traces.load import load
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable


def make_plan(pools: list[dict[str, Any]], **keys: Any) -> Plan:
    """A plan of small engines of Llama-7B on A10; `pools` say what differs."""
    defaults = {
        "hardware": "a10", "max_model_len": 1024, "max_num_seqs": 16, "num_gpu_blocks_override": 150,
        "max_num_batched_tokens": 1024,
    }  # fmt: skip
    named = [{"name": f"pool{i}", **pool} for i, pool in enumerate(pools)]
    data = {"model": "llama-7b", "engine": "vllm-0.19", "defaults": defaults, "pools": named, **keys}
    return plan_from(data, "test")


def make_table(
    n: int, rate: float, prompt: float = 150, output: float = 40, seed: int = 0, burst: bool = False, shared: int = 0
) -> RequestTable:
    """Exponential everything, within 1,024 tokens; `burst` : arrivals in heaps; `shared` : prefixes in use."""
    s = Stream(seed, "cluster tests")
    arrival = np.cumsum(s.exponential(n)) / rate
    if burst:
        arrival = np.floor(arrival * 2) / 2
    prompts = np.clip(s.exponential(n) * prompt, 1, 700).astype(np.int64)
    outputs = np.clip(s.exponential(n) * output, 1, 300).astype(np.int64)
    blocks = None
    if shared:
        families = s.integers(n, shared).tolist()
        rows = []
        for i, (family, tokens) in enumerate(zip(families, prompts.tolist(), strict=True)):
            full = tokens // 16
            rows.append([family * 1000 + j if j < 20 else 10**6 + i * 1000 + j for j in range(full)])
        blocks = PrefixBlocks.of(16, "floor", rows)
    tenant = Labels.of([("a", "b", "c")[i] for i in s.integers(n, 3)])
    return RequestTable(arrival - arrival[0], prompts, outputs, priority=s.integers(n, 2), tenant=tenant, blocks=blocks)


def rows_of(result: Run) -> np.ndarray:
    columns = result.recorder.requests.columns()
    order = np.argsort(columns["index"])
    return np.stack([column.astype(np.int64) for column in columns.values()], axis=1)[order]


def check_books(result: Run) -> None:
    assert all(result.invariants.values()), result.invariants
    c = result.recorder.requests.columns()
    ended = c["end"] == 0
    parts = sum(c[name] for name in COMPONENTS)
    np.testing.assert_array_equal((c["ended"] - c["arrival"])[ended], parts[ended])
    for name in COMPONENTS:
        assert c[name].min() >= 0, name


def run_all(plan: Plan, table: RequestTable, seed: int = 0, oracle: bool = True) -> Run:
    """Leap, check the books, and hold the other engines against it."""
    leap = run(table, plan, seed=seed)
    check_books(leap)
    step = run(table, plan, seed=seed, step_by_step=True)
    np.testing.assert_array_equal(rows_of(leap), rows_of(step))
    if oracle:
        np.testing.assert_array_equal(rows_of(leap), rows_of(run(table, plan, seed=seed, oracle=True)))
    return leap


PROGRAMS = """kind: programs
programs: 40
rate: 8
classes:
  - name: agent
    share: 2
    head_tokens: 64
    task_tokens: {lognormal: {median: 60, sigma: 0.5, maximum: 200}}
    turns: {geometric: {mean: 4}}
    output_tokens: {lognormal: {median: 20, sigma: 0.8, maximum: 100}}
    window: 600
    tools:
      - {name: shell, gap: {exponential: {mean: 0.3}}, result_tokens: {lognormal: {median: 30, sigma: 1, maximum: 200}}}
      - {name: web, share: 0.5, gap: {exponential: {mean: 1.5}}, result_tokens: {constant: {value: 80}}}
  - name: flow
    head_tokens: 32
    deadline: {constant: {value: 3}}
    stages:
      - {name: split, prompt_tokens: {constant: {value: 100}}, output_tokens: {geometric: {mean: 10}}}
      - {name: work, calls: {geometric: {mean: 4}}, prompt_tokens: {constant: {value: 200}},
         output_tokens: {geometric: {mean: 20}}, gap: {exponential: {mean: 0.05}}}
      - {name: join, prompt_tokens: {constant: {value: 150}}, output_tokens: {geometric: {mean: 10}}}
"""


@pytest.fixture
def programs(tmp_path):
    """A mix of small agents and workflows, by seed."""
    (tmp_path / "mix.yaml").write_text(PROGRAMS)
    return lambda seed=0: load(tmp_path / "mix.yaml", seed=seed)


@pytest.fixture
def small():
    """The tools by name."""
    from types import SimpleNamespace

    return SimpleNamespace(plan=make_plan, table=make_table, run=run, run_all=run_all, rows=rows_of, check=check_books)
