"""The planner's router: weights by replica, and sessions that stay where their prefix is."""

from __future__ import annotations

import numpy as np

from servecast.configs.plan import plan_from
from servecast.sim.run import run
from servecast.traces.columns import PrefixBlocks
from servecast.traces.table import RequestTable


def test_sessions_stay_where_their_prefix_is_cached() -> None:
    """Five sessions in turn on two replicas: by load alone every other turn goes to the wrong one, with affinity none
    does; an equal share of all prompts is no reason to crowd on one replica."""
    turns, sessions = 8, 5
    session = np.tile(np.arange(sessions), turns)
    blocks = [[0, *(100 * (s + 1) + k for k in range(10))] for s in session.tolist()]
    n = len(session)
    table = RequestTable(
        np.arange(n) * 0.05, np.full(n, 1120), np.full(n, 10), blocks=PrefixBlocks.of(100, "floor", blocks)
    )
    found = {}
    for affinity in (False, True):
        router = {"name": "planned_shares", "weights": [[1.0, 1.0]], "affinity": affinity}
        pool = {"name": "a", "hardware": "h100", "replicas": 2, "max_model_len": 2048, "block_size": 20}
        plan = plan_from({"model": "llama-3.1-8b", "engine": "vllm-0.19", "pools": [pool], "router": router})
        columns = run(table, plan).recorder.requests.columns()
        found[affinity] = int((columns["cached_tokens"] >= 1000).sum())
    assert found[False] <= n - 2 * sessions  # each session is computed on both
    assert found[True] == n - sessions
