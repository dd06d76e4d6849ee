"""Work that is due: stretches of a trace, by arithmetic that can be done by hand, and what they mean for a bound."""

from __future__ import annotations

import numpy as np
import pytest

from servecast.planner.program.due import Times, stretches, times, without_most
from servecast.traces.columns import Labels
from servecast.traces.programs import ParentRows, Programs
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable


def table(arrival: list[float]) -> RequestTable:
    return RequestTable(np.array(arrival), np.full(len(arrival), 100), np.full(len(arrival), 10))


def test_a_burst_is_due_by_its_last_deadline() -> None:
    """Ten requests in 1 s, each due after 1 s, in an hour with one a minute: 10 in 2 s; two of them may miss."""
    burst = [1000 + i / 9 for i in range(10)]
    when = times(table(sorted([60.0 * i for i in range(60)] + burst)), np.ones(70))
    found = stretches(when, np.ones(70), 0)
    assert (found.rows.sum(), found.number, found.seconds) == (10, 1, pytest.approx(2.0))
    assert without_most(np.ones(70), found.rows, when.group, 2) == 8


def test_what_may_miss_is_taken_off_all_bursts_together() -> None:
    """Two misses would hide either of two bursts, not both."""
    bursts = [base + i / 4 for base in (100.0, 500.0) for i in range(5)]
    when = times(table([0.0, *bursts, 1000.0]), np.ones(12))
    found = stretches(when, np.ones(12), 2)
    assert found.number == 2
    assert without_most(np.ones(12), found.rows, when.group, 2) / found.seconds == pytest.approx(8 / 4.0)


@pytest.mark.parametrize("seed", range(4))
def test_no_queue_that_keeps_all_deadlines_is_slower_than_the_stretches_ask(seed: int) -> None:
    """Earliest deadline first on one server is optimal (Horn, 1974): the least speed at which it keeps all deadlines is
    that of the densest stretch, to what the grid leaves out."""
    stream = Stream(seed, "due")
    arrival, work = np.cumsum(stream.gamma(150, 0.4)), stream.exponential(150) + 0.1
    when = Times(arrival, arrival + 2 + 4 * stream.uniform(150), np.arange(150))
    found = stretches(when, work, 0)
    asked = float(work[found.rows].sum() / found.seconds)
    low, high = 0.0, float(work.sum())
    for _ in range(30):
        speed = (low + high) / 2
        low, high = (low, speed) if _keeps_deadlines(when, work / speed) else (speed, high)
    assert asked <= high * (1 + 1e-6)
    assert asked >= 0.97 * high


def _keeps_deadlines(when: Times, seconds: np.ndarray) -> bool:
    """Preemptive earliest deadline first on one server."""
    left, now, at = seconds.copy(), 0.0, 0
    ready: list[int] = []
    while at < len(left) or ready:
        if not ready:
            now = max(now, float(when.earliest[at]))
        while at < len(left) and when.earliest[at] <= now:
            ready.append(at)
            at += 1
        first = min(ready, key=lambda i: when.latest[i])
        until = min(now + left[first], float(when.earliest[at]) if at < len(left) else np.inf)
        left[first] -= until - now
        now = until
        if left[first] <= 1e-12:
            ready.remove(first)
            if now > when.latest[first] + 1e-9:
                return False
    return True


def test_a_programs_next_turn_waits_for_the_last_one() -> None:
    """It comes 5 s after an end that may be anywhere within the limit; who is late makes all of its program late."""
    two = table([0.0, 6.0, 7.0])
    programs = Programs(
        ParentRows.of([[], [0], []]), np.array([0.0, 5.0, 0.0]), Labels.of([None] * 3), np.full(3, np.inf)
    )
    turns = RequestTable(
        two.arrival, two.prompt_tokens, two.output_tokens, session=Labels.of(["a", "a", "b"]), programs=programs
    )
    when = times(turns, np.full(3, 2.0))
    assert when.earliest.tolist() == [0.0, 5.0, 7.0]
    assert when.latest.tolist() == [2.0, 9.0, 9.0]
    assert without_most(np.ones(3), np.ones(3, bool), when.group, 1) == 1
