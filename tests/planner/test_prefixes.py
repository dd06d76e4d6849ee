"""What prefix caches spare of a trace and what holding it takes; plans for sessions that need their KV cache again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from servecast.configs.slo import SLO, Objective
from servecast.planner.candidates import find_candidates
from servecast.planner.inventory import Inventory, Stock
from servecast.planner.measure.cache import Cache
from servecast.planner.measure.judge import Judge
from servecast.planner.measure.points import Capacity
from servecast.planner.measure.prefixes import Prefixes
from servecast.planner.measure.targets import Targets
from servecast.planner.measure.workload import Workload, thinned
from servecast.planner.program.fleet import Fleet, solve_fleet
from servecast.planner.search.market import Market
from servecast.planner.search.search import Search
from servecast.traces.columns import Labels, PrefixBlocks
from servecast.traces.load import load
from servecast.traces.programs import ParentRows, Programs
from servecast.traces.table import RequestTable

HEAD, OWN = [1, 2], [3, 4, 5]  # blocks of 100 tokens


def turns() -> RequestTable:
    """A first turn, another session with the same head, and a second turn."""
    rows = [[*HEAD, *OWN], [*HEAD, 6], [*HEAD, *OWN, 7]]
    return RequestTable(
        np.array([0.0, 4.0, 10.0]), np.array([500, 300, 650]), np.array([20, 10, 10]),
        blocks=PrefixBlocks.of(100, "floor", rows), session=Labels.of(["a", "b", "a"]),
    )  # fmt: skip


def test_blocks_wait_from_one_use_to_the_next() -> None:
    """The head was used by the second request, 6 s ago; the rest by the first, whose answer took its time then."""
    prefixes = Prefixes.of(turns())
    assert prefixes.spared.tolist() == [0, 200, 500]
    pieces = zip(*(x.tolist() for x in (prefixes.rows, prefixes.tokens, prefixes.wait, prefixes.answers)), strict=True)
    assert list(pieces) == [(1, 200, 4.0, -20), (2, 200, 6.0, 0), (2, 300, 10.0, -20)]
    (((share, waits), *_),) = prefixes.held(np.zeros(3, np.int64), 1, tpot=0.1)
    assert share == pytest.approx(1 / 8) and waits == pytest.approx(700 / 3 / 8 * (4.0 - 20 * 0.1))


def test_a_program_holds_its_kv_for_the_gap_and_what_it_has_longer_for_the_answer_too() -> None:
    table = turns()
    programs = Programs(
        ParentRows.of([[], [], [0]]), np.array([0.0, 0.0, 7.0]), Labels.of([None] * 3), np.full(3, np.inf)
    )
    prefixes = Prefixes.of(replace(table, programs=programs))
    pieces = zip(*(x.tolist() for x in (prefixes.rows, prefixes.tokens, prefixes.wait, prefixes.answers)), strict=True)
    assert list(pieces) == [(1, 200, 0.0, 0), (2, 200, 0.0, 0), (2, 300, 7.0, 0)]


def test_sessions_are_thinned_whole() -> None:
    names = [f"s{i // 5}" for i in range(500)]
    table = RequestTable(np.arange(500.0), np.full(500, 10), np.full(500, 5), session=Labels.of(names))
    kept = thinned(table, 0.4, 0)
    assert 100 < len(kept) < 300
    assert np.bincount(kept.session.codes).tolist() == [5 * (n > 0) for n in np.bincount(kept.session.codes)]  # type: ignore[union-attr]


def chats(folder: Path, gap: float, programs: int, rate: float) -> RequestTable:
    """Users who read for `gap` seconds, with contexts of 20,000 tokens and short turns."""
    path = folder / f"chats-{gap}.yaml"
    path.write_text(f"""
kind: programs
programs: {programs}
rate: {rate}
block_size: 16
classes:
  - name: chat
    head_tokens: 500
    task_tokens: {{lognormal: {{median: 18000, sigma: 0.2, maximum: 24000}}}}
    turns: {{lognormal: {{median: 8, sigma: 0.3, maximum: 20}}}}
    output_tokens: {{lognormal: {{median: 120, sigma: 0.6, maximum: 1000}}}}
    window: 32768
    tools:
      - name: user
        share: 1.0
        gap: {{exponential: {{mean: {gap}}}}}
        result_tokens: {{lognormal: {{median: 400, sigma: 0.7, maximum: 3000}}}}
""")
    return load(path, seed=1)


def market(table: RequestTable, *limits: str) -> Market:
    gpus = {"h100": Stock(16, price_per_hour=3.0), "h200": Stock(16, price_per_hour=4.0)}
    inventory = Inventory("llama-3.1-8b", gpus, tensor_parallel_size=(1,), max_num_batched_tokens=(None,))
    targets = Targets.of(SLO({}, {}, tuple(Objective.parse(text, "slo") for text in limits)), len(table))
    capacity = Capacity(inventory, Workload.of(table), targets, Judge(Cache(None)))
    return Market(capacity, find_candidates(inventory, table)[0])


def test_kv_that_waits_for_users_binds_where_they_take_long(tmp_path: Path) -> None:
    """In the relaxation, holding costs nothing where the next turn comes at once; with 30 s between turns what fits is
    held, and what does not is computed again."""
    for gap, binds in ((0.5, False), (30.0, True)):
        problem = market(chats(tmp_path, gap, 250, 0.5), "ttft p99 <= 2s", "tpot p99 <= 50ms").problem([])
        free = replace(problem, offers=tuple(replace(offer, held=()) for offer in problem.offers))
        held, nothing = (solve_fleet(p, solver="highs", relaxed=True) for p in (problem, free))
        assert isinstance(held, Fleet) and isinstance(nothing, Fleet)
        ratio = (held.outcome.value or 0.0) / (nothing.outcome.value or 1.0)
        assert ratio > 1.3 if binds else ratio == pytest.approx(1.0)


def test_a_plan_for_sessions_is_bounded_and_keeps_them_where_their_kv_is(tmp_path: Path) -> None:
    """Where turns of 20,000 tokens find most of them, a replica does twice as much; and the replay proves the plan."""
    table = chats(tmp_path, 1.0, 60, 0.5)
    limits = "ttft p50 <= 400ms", "tpot p90 <= 50ms"
    known, apart = market(table, *limits), market(replace(table, blocks=None), *limits)
    assert all(known.known[name].top > 2 * apart.known[name].top for name in apart.known)
    found = Search(known, solver="highs").run()
    assert found.best and found.bound <= found.best.price
    assert found.best.values["router"]["affinity"] is True
