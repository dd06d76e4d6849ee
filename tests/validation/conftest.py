"""Fixtures of the validation tests: a plan on a profile of our own making, and a run of it as a recording."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servecast.configs.plan import Plan, plan_from
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable


@pytest.fixture
def plan(layer_profile: Any) -> Callable[..., Plan]:
    """A plan whose step times are measured; keys of its pool may be given."""

    def make(**pool: Any) -> Plan:
        run = layer_profile()
        settings = {
            "name": "one", "hardware": "rtx-4090", "cost": str(run / "profile"), "max_num_seqs": 16,
            "max_num_batched_tokens": 256, "num_gpu_blocks_override": 2000, **pool,
        }  # fmt: skip
        return plan_from({"model": str(run / "model.json"), "engine": "vllm-0.19", "pools": [settings]}, "tiny")

    return make


@pytest.fixture(scope="session")
def workload() -> RequestTable:
    """Sixty requests that queue up at a small engine."""
    stream = Stream(7, "validation")
    arrival = np.cumsum([0.004 * stream.below(5) for _ in range(60)])
    prompts = np.array([20 + stream.below(300) for _ in range(60)])
    outputs = np.array([2 + stream.below(60) for _ in range(60)])
    return RequestTable(arrival, prompts, outputs)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of third-party data; tests that need it are skipped without."""
    folder = os.environ.get("SERVECAST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("SERVECAST_DATA does not name a folder")
    return Path(folder)
