"""Transforms keep requests whole and say no to what cannot be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from servecast.errors import InputError
from servecast.traces.columns import Labels, PrefixBlocks
from servecast.traces.table import RequestTable, Source
from servecast.traces.transform import limit, merge, scale_rate, where, window


def table(arrival: list[float], **columns: Any) -> RequestTable:
    n = len(arrival)
    tokens = {"prompt_tokens": np.arange(1, n + 1) * 10, "output_tokens": np.arange(2, n + 2)}
    return RequestTable(np.array(arrival), **{**tokens, **columns})


def test_rate_scale_divides_arrivals_only() -> None:
    before = table([0.0, 1.0, 4.0], cancel_after=np.array([1.0, 2.0, 3.0]))
    after = scale_rate(before, 2.0)
    assert after.arrival.tolist() == [0.0, 0.5, 2.0]
    assert after.cancel_after is not None and after.cancel_after.tolist() == [1.0, 2.0, 3.0]
    assert np.array_equal(scale_rate(after, 0.5).arrival, before.arrival)
    for factor in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="positive"):
            scale_rate(before, factor)


def test_window_is_half_open_and_rebased() -> None:
    before = table([0.0, 1.0, 4.0, 4.5], source=Source(origin=100.0))
    after = window(before, 1.0, 4.5)
    assert after.arrival.tolist() == [0.0, 3.0]
    assert after.prompt_tokens.tolist() == [20, 30]
    assert after.source.origin == 101.0  # the clock stays right
    assert len(window(before)) == 4
    for start, end in ((5.0, 6.0), (3.0, 3.0), (4.0, 1.0), (-1.0, 1.0)):
        with pytest.raises(InputError, match="window"):
            window(before, start, end)


def test_limit() -> None:
    assert limit(table([0.0, 1.0, 2.0]), 2).arrival.tolist() == [0.0, 1.0]
    assert len(limit(table([0.0]), 5)) == 1
    with pytest.raises(InputError, match="limit"):
        limit(table([0.0]), 0)


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("model=GPT-4", [1]),
        ("model!=GPT-4", [0, 2]),
        ("class = API log", [0, 1]),
        ("request_class!=API log", [2]),
        ("prompt_tokens<=20", [0, 1]),
        ("prompt_tokens<20", [0]),
        ("prompt_tokens==20", [1]),
        ("output_tokens >= 3", [1, 2]),
        ("output_tokens > 3", [2]),
        ("arrival>0.5", [1, 2]),
    ],
)
def test_conditions(condition: str, rows: list[int]) -> None:
    labels = {"model": Labels.of(["a", "GPT-4", None]), "request_class": Labels.of(["API log", "API log", "x"])}
    before = table([0.0, 1.0, 2.0], **labels)
    assert where(before, condition).prompt_tokens.tolist() == [10 * (i + 1) for i in rows]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("modle=GPT-4", "did you mean 'model'"),
        ("tenant=x", "no column of this trace is called 'tenant'"),
        ("model=GPT4", "did you mean 'GPT-4'"),
        ("model<GPT-4", "= or !="),
        ("prompt_tokens<many", "a number"),
        ("prompt_tokens", "no comparison"),
        ("prompt_tokens>1000", "no request fulfils it"),
    ],
)
def test_bad_conditions(condition: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        where(table([0.0, 1.0], model=Labels.of(["a", "GPT-4"])), condition)


def test_merge_orders_rows_and_joins_labels() -> None:
    a = table([0.0, 2.0], model=Labels.of(["x", "y"]), source=Source("a.csv", "burstgpt", rows=3, failed=1, dropped=1))
    b = table(
        [1.0, 2.0], model=Labels.of(["y", None]), elapsed=np.array([1.0, 2.0]), source=Source("b.csv", "azure", rows=2)
    )
    both = merge([a, b], "tenant")
    assert both.arrival.tolist() == [0.0, 1.0, 2.0, 2.0]
    assert both.model is not None and list(both.model) == ["x", "y", "y", None]
    assert both.tenant is not None and list(both.tenant) == ["a.csv", "b.csv", "a.csv", "b.csv"]
    assert both.elapsed is not None and np.array_equal(both.elapsed, [np.nan, 1.0, np.nan, 2.0], equal_nan=True)
    assert (both.source.rows, both.source.failed, both.source.name) == (5, 1, "a.csv + b.csv")
    same = merge([a, a], "tenant")
    assert same.tenant is not None and set(same.tenant) == {"a.csv#1", "a.csv#2"}
    with pytest.raises(InputError, match="did you mean 'tenant'"):
        merge([a, b], "tennant")


def test_merged_blocks_never_collide() -> None:
    a = table([0.0, 2.0], blocks=PrefixBlocks.of(16, "ceil", [[0], [0, 1]]))
    b = table([1.0], blocks=PrefixBlocks.of(16, "ceil", [[0]]))
    plain = table([3.0, 4.0])
    both = merge([a, b, plain])
    assert both.blocks is not None
    rows = [both.blocks.row(i).tolist() for i in range(5)]
    assert rows[0] == rows[2][:1]
    others = [i for row in (rows[1], rows[3], rows[4]) for i in row]
    assert len(set(others) | set(rows[2])) == len(others) + 2
    assert [len(row) for row in rows] == [1, 1, 2, 1, 2]
    with pytest.raises(InputError, match="one block size"):
        merge([a, table([0.0], blocks=PrefixBlocks.of(32, "ceil", [[0]]))])
