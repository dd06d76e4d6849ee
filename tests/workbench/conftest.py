"""A small trace with labels, and runs of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import servecast

PLAN: dict[str, Any] = {
    "model": "llama-3.1-8b",
    "engine": "vllm-0.19",
    "pools": [{"name": "chat", "hardware": "h100", "replicas": 2, "max_model_len": 8192}],
}
SLO: dict[str, Any] = {
    "goodput": {"ttft": "200ms"},
    "objectives": ["ttft p99 <= 1ms", "tpot p99 <= 1s", "goodput >= 10%"],
}


def trace_text(requests: int, gap_ms: int = 25) -> str:
    """Requests of two classes, of varied lengths, in our own format."""
    rows = [
        {
            "timestamp": gap_ms * i, "input_length": 300 + 97 * (i % 13), "output_length": 1 + (37 * i) % 150,
            "class": "ab"[i % 2], "session": f"s{i % 7}",
        }
        for i in range(requests)
    ]  # fmt: skip
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="session")
def plan() -> dict[str, Any]:
    """Two replicas."""
    return PLAN


@pytest.fixture(scope="session")
def slo() -> dict[str, Any]:
    """One objective that is missed and two that are met."""
    return SLO


@pytest.fixture(scope="session")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 300 requests."""
    path = tmp_path_factory.mktemp("traces") / "trace.jsonl"
    path.write_text(trace_text(300))
    return path


@pytest.fixture(scope="session")
def report(trace: Path) -> servecast.Report:
    """The trace on two replicas."""
    return servecast.simulate(trace, PLAN, SLO)


@pytest.fixture(scope="session")
def folder(report: servecast.Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as files."""
    path = tmp_path_factory.mktemp("results") / "two"
    report.save(path)
    return path
