"""Attention measured for whole batches: prompts beside decodes, and decodes whose contexts differ."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from math import log2
from typing import Any

import numpy as np
import pytest

from servecast.configs.catalog import find_hardware, find_model
from servecast.configs.device import HardwareCard
from servecast.configs.model import Parallelism
from servecast.costmodels.base import FOREVER, check_piece, seconds
from servecast.costmodels.mixed import MixedStage
from servecast.costmodels.table import Table, TableSet, make_table
from servecast.costmodels.tablecost import MeasuredCost
from servecast.costmodels.uneven import Uneven
from servecast.errors import InputError

Tables = Callable[..., TableSet]
H100 = find_hardware("h100")
HEADS = {"dtype": "bf16", "kv_dtype": "bf16", "heads": 32, "kv_heads": 8, "head_dim": 128, "window": 0}


def attention(chunk: float, before: float, decodes: float, context: float) -> float:
    """Seconds of one call, linear in each of its sizes."""
    return 1e-5 + 1e-8 * chunk * (1 + before / 2000) + decodes * (1e-8 + 2e-9 * context)


def mixed_table() -> Table:
    lists = ([0, 16, 512, 4096], [0, 1000, 16_000], [0, 1, 32, 256], [0, 1000, 32_000])
    points = [(c, p, d, x) for c, p, d, x in itertools.product(*lists) if (c or d) and (c or not p) and (d or not x)]
    columns = {name: np.full(len(points), value) for name, value in HEADS.items()}
    for name, column in zip(
        ("chunk", "chunk_context", "decodes", "decode_context"), zip(*points, strict=True), strict=True
    ):
        columns[name] = np.array(column)
    return make_table("mixed_attention", {**columns, "time_s": np.array([attention(*p) for p in points])}, "t")


def buckets(rows: list[tuple[float, ...]], default: float = 0.0) -> Uneven:
    names = ("chunk", "decodes", "skew", "longest", "chunk_context", "alpha")
    columns = {name: np.array(column, float) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
    table = make_table("uneven_decodes", {"tp": np.ones(len(rows)), **columns}, "t")
    return Uneven(table, default)


@pytest.fixture
def model(tables: Tables) -> Callable[..., MeasuredCost]:
    """Llama-3.1-8B on the made-up kernels, its attention measured in mixed calls."""

    def build(uneven: list[tuple[float, ...]] | None = None, card: HardwareCard = H100) -> MeasuredCost:
        plain = tables(leave_out=("prefill_attention", "decode_attention"))
        made: dict[str, Any] = {kind: plain.get(kind) for kind in plain.kinds} | {"mixed_attention": mixed_table()}
        if uneven:
            names = ("chunk", "decodes", "skew", "longest", "chunk_context", "alpha")
            columns = {name: np.array(c, float) for name, c in zip(names, zip(*uneven, strict=True), strict=True)}
            made["uneven_decodes"] = make_table("uneven_decodes", {"tp": np.ones(len(uneven)), **columns}, "t")
        found = TableSet(plain.provenance, made, "t")
        return MeasuredCost(found, find_model("llama-3.1-8b"), card, Parallelism())

    return build


def piece(cost: MeasuredCost, chunks: Any, contexts: list[int]) -> float:
    [stage] = cost.stages
    low, high = min(contexts, default=0), max(contexts, default=0)
    return seconds(stage.piece(chunks, len(contexts), sum(contexts), low, high)[0])


def test_a_batch_is_priced_by_its_own_measurement(model: Callable[..., MeasuredCost]) -> None:
    """Whatever the composition, the difference to another one with as many tokens is that of the formula."""
    cost = model()
    assert isinstance(cost.stages[0], MixedStage)
    chunk, before, decodes = 300, 700, 20
    one, other = (piece(cost, ((chunk, before),), [context] * decodes) for context in (500, 9000))
    wanted = 32 * (attention(chunk, before, decodes, 9000) - attention(chunk, before, decodes, 500))
    assert other - one == pytest.approx(wanted, rel=1e-3)
    one, other = (piece(cost, ((chunk, start),), [800] * decodes) for start in (0, 12_000))
    wanted = 32 * (attention(chunk, 12_000, decodes, 800) - attention(chunk, 0, decodes, 800))
    assert other - one == pytest.approx(wanted, rel=1e-3)


def test_uneven_decodes_lie_between_the_mean_and_the_greatest(model: Callable[..., MeasuredCost]) -> None:
    """time = (1 - alpha) x at the mean context + alpha x at the greatest."""
    cost = model([(0, 64, 1.0, 32_000, 0, 0.25)])
    assert cost.extremes
    even = piece(cost, (), [1000] * 16)
    uneven = piece(cost, (), [*[500] * 8, *[1500] * 8])
    greatest = piece(cost, (), [1500] * 16)
    assert uneven - even == pytest.approx(0.25 * (greatest - even), rel=1e-3)


@pytest.mark.parametrize(
    "uneven", [None, [(0, 64, 0.5, 2000, 0, 0.4), (0, 64, 1.0, 32_000, 0, 0.1), (16, 64, 1.0, 32_000, 0, 0.3)]]
)
def test_the_law_of_pieces(model: Callable[..., MeasuredCost], uneven: Any) -> None:
    [stage] = model(uneven).stages
    draw = random.Random(1)
    for _ in range(60):
        parts = [(draw.choice([16, 700]), draw.choice([0, 900])) for _ in range(draw.randrange(3))]
        contexts = [draw.randrange(1, draw.choice([50, 2500, 30_000])) for _ in range(draw.choice([1, 9, 60]))]
        check_piece(stage, parts, contexts, iterations=400)


def test_buckets_by_their_upper_edges() -> None:
    """Numbers up to an edge belong to it, beyond the last to the last; an unmeasured bucket has the default. Between
    two greatest contexts alpha is linear in their logarithm, taken up to a step: 832 for 800, 3,072 for 3,000."""
    rule = buckets([(0, 8, 0.5, 1000, 0, 0.1), (0, 8, 1.0, 1000, 0, 0.2), (0, 8, 0.5, 4000, 0, 0.3)], default=0.9)
    assert rule.alpha(0, 4, 4 * 200, 100, 800, 0) == (0.1, 832 - 800 + 1)  # skew 1/7
    assert rule.alpha(0, 4, 4 * 700, 100, 800, 0)[0] == 0.2  # skew 6/7
    weight = log2(3072 / 1000) / log2(4000 / 1000)
    alpha, holds = rule.alpha(0, 4, 4 * 200, 100, 3000, 0)
    assert alpha == pytest.approx(0.1 + weight * 0.2) and holds == 3072 - 3000 + 1
    assert rule.alpha(0, 4, 4 * 2000, 100, 3000, 0)[0] == pytest.approx(0.2 + weight * 0.7)  # 4,000: not measured
    assert rule.alpha(0, 40, 40 * 200, 100, 800, 0)[0] == 0.1  # more decodes than measured
    assert rule.alpha(0, 4, 4 * 500, 500, 500, 0) == (0.0, FOREVER)  # even
    assert rule.alpha(0, 1, 500, 500, 500, 0) == (0.0, FOREVER)
    with pytest.raises(InputError, match="two rows for the bucket"):
        buckets([(0, 8, 0.5, 1000, 0, 0.1), (0, 8, 0.5, 1000, 0, 0.2)])


def test_a_locked_clock_stretches_calls_as_the_roofline_does(model: Callable[..., MeasuredCost]) -> None:
    """No call is faster at a lower clock, or slower than the clock; at that of the data sheet nothing changes. Prompts
    make a call slower that decodes alone do not."""
    uneven = [(0.0, 4.0, 0.0, 0.0, 0.0, 0.5)]
    clocks = (600, 1000, 1830)
    for rule in (None, uneven):
        costs = [model(rule, H100.locked(mhz)) for mhz in clocks]
        free = model(rule)
        for chunks, contexts in (((), [900, 1100]), (((2048, 0),), [2000] * 8), (((64, 500), (512, 0)), [300] * 200)):
            times = [piece(cost, chunks, contexts) for cost in costs]
            assert times[-1] == piece(free, chunks, contexts)
            assert times == sorted(times, reverse=True) and times[0] <= times[-1] * 1830 / 600
            assert (times[0] > 1.5 * times[-1]) == bool(chunks)
        check_piece(costs[0].stages[0], (), [900, 1100, 400], 300)
