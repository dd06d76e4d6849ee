"""Flover: joining at the next token against waiting for a batch to end, and against one request after another."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from servecast.configs.plan import load_plan
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable


def arrivals(interval: float, n: int = 32) -> RequestTable:
    """A request every `interval` seconds, answers of 64 to 192 tokens, as the paper's uniform ones."""
    outputs = 64 + Stream(0, "flover").integers(n, 129)
    return RequestTable(np.arange(n) * interval, np.full(n, 128), outputs)


def figures(bench, interval: float, **pool: object) -> tuple[float, float]:
    """Seconds until all is done, and the mean of a request."""
    plan = load_plan("techniques/flover")
    changed = dataclasses.replace(plan.pools[0], **pool)
    done = bench.run(arrivals(interval), dataclasses.replace(plan, pools=(changed,)))
    return done.duration / 2**36, bench.report(done)["mean_e2el_ms"] / 1e3


def test_fusion_against_one_after_another(bench) -> None:
    """Flover (Yao et al., 2023): over 11x (GPT-J) and 16x (LLaMA) against FasterTransformer as requests come faster. A
    fused batch's steps are as long as one's while weights bound them, so the gain nears the number under way."""
    gains = [figures(bench, i, max_num_seqs=1)[0] / figures(bench, i)[0] for i in (4.0, 0.5, 0.1, 0.01)]
    assert gains == sorted(gains)
    assert gains[0] == pytest.approx(1, rel=0.05)  # they do not overlap
    assert 11 < gains[-1] < 32


def test_fusion_against_dynamic_batching(bench) -> None:
    """Whoever waits for the batch before it to end waits longer, unless all come at once or nobody overlaps."""
    for interval, least in [(4.0, 1.0), (0.3, 1.2), (0.05, 1.2)]:
        fused, dynamic = figures(bench, interval)[1], figures(bench, interval, batch="static")[1]
        assert dynamic >= least * fused
