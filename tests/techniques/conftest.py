"""What the tests of techniques share: a small workload, and a plan without its technique."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from servecast.configs.plan import Plan, plan_from
from servecast.sim.report.report import build_report
from servecast.sim.report.write import json_text
from servecast.sim.run import Run, run
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable


def workload(n: int = 60, rate: float = 8.0, prompt: int = 900, output: int = 60, shared: int = 0) -> RequestTable:
    """Exponential arrivals and lengths; `shared` tokens of every prompt are such as others have too."""
    s = Stream(0, "techniques")
    arrival = np.cumsum(s.exponential(n)) / rate
    lengths = [np.clip(s.exponential(n) * mean, 1, 3 * mean).astype(np.int64) for mean in (prompt, output)]
    return RequestTable(arrival - arrival[0], np.minimum(lengths[0] + shared, max(3 * prompt, shared + 1)), lengths[1])


def one_pool(pool: dict[str, Any], **plan: Any) -> Plan:
    """A plan of one pool."""
    pools = [{"name": "pool", "hardware": "h100", "max_model_len": 8192, **pool}]
    return plan_from({"model": "llama-3.1-8b", "engine": "vllm-0.19", **plan, "pools": pools})


def bytes_of(done: Run) -> str:
    """All that a run leaves, but for the plan's own name and fingerprint."""
    report = build_report(done)
    for key in ("plan", "plan_fingerprint"):
        del report["simulation"][key]
    return json_text(report)


def same(plan: Plan, table: RequestTable) -> np.ndarray:
    """Assert that the three engines leave the same rows; returns them, by index of the request."""
    found = []
    for how in ({}, {"step_by_step": True}, {"oracle": True}):
        columns = run(table, plan, **how).recorder.requests.columns()
        rows = np.stack(list(columns.values()), axis=1)
        found.append(rows[np.argsort(columns["index"])])
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)
    return found[0]


@pytest.fixture(scope="session")
def bench() -> SimpleNamespace:
    """The tools by name."""
    return SimpleNamespace(
        workload=workload, one_pool=one_pool, bytes_of=bytes_of, run=run, same=same, report=build_report
    )
