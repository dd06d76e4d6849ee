"""Which part of a fleet a missed objective speaks of."""

from __future__ import annotations

import pytest

from servecast.planner.measure.targets import blame, describe, misses_phase

GOODPUT = {"objective": "goodput >= 99%", "value": 0.9, "met": False}


@pytest.mark.parametrize(
    ("metric", "roles"), [("ttft", ["prefill"]), ("tpot", ["decode"]), ("e2el", ["prefill", "decode"])]
)
def test_lost_goodput_is_blamed_on_the_limit_that_most_requests_were_over(metric: str, roles: list[str]) -> None:
    limits = {m: {"requests": 40 if m == metric else 3} for m in ("ttft", "tpot", "e2el")}
    missed = blame(GOODPUT, limits)
    assert [role for role in ("prefill", "decode") if misses_phase([missed], role)] == roles
    assert f"mostly {metric}" in describe([missed])


def test_without_such_limits_it_speaks_of_both() -> None:
    """As where limits are those of classes."""
    assert blame(GOODPUT, {}) == GOODPUT
    assert misses_phase([GOODPUT], "prefill") and misses_phase([GOODPUT], "decode")


def test_what_was_met_speaks_of_nobody() -> None:
    kept = {"objective": "ttft p99 <= 2s", "value": 1.0, "met": True}
    assert blame(kept, {"ttft": {"requests": 5}}) == kept
    assert not misses_phase([kept], "prefill")
