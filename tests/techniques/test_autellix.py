"""Autellix's two orders (arXiv 2502.13965): the sum of a program's service, or its longest chain."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import servecast
from servecast.configs.plan import load_plan, plan_from
from servecast.traces.columns import Labels
from servecast.traces.programs import ParentRows, Programs
from servecast.traces.table import RequestTable

TICKS = 1 << 36
PLAN = Path(servecast.__file__).parent / "configs" / "plans" / "techniques" / "atlas.yaml"


def programs(shapes: list[list[list[int]]], output=150) -> RequestTable:
    """Programs that come together; each is the parents of each of its calls, by number within it."""
    parents, sessions = [], []
    for name, shape in enumerate(shapes):
        first = len(parents)
        parents += [[first + p for p in call] for call in shape]
        sessions += [f"p{name}"] * len(shape)
    n = len(parents)
    links = Programs(ParentRows.of(parents), np.zeros(n), Labels.of([None] * n), np.full(n, np.inf))
    return RequestTable(
        np.zeros(n), np.full(n, 400), np.full(n, output), session=Labels.of(sessions), programs=links
    )  # fmt: skip


def chain(calls: int) -> list[list[int]]:
    return [[], *([i] for i in range(calls - 1))]


def fan(branches: int) -> list[list[int]]:
    """One call, so many side by side, and one that waits for all of them."""
    return [[], *[[0]] * branches, list(range(1, branches + 1))]


def plan(queue: str):
    pool = {"name": "p", "hardware": "h100", "max_model_len": 4096, "max_num_seqs": 3}
    queue_ = {"name": queue, "quantum": 0.3} if queue != "fcfs" else queue
    return plan_from({"model": "llama-3.1-8b", "engine": "vllm-0.12", "pools": [{**pool, "queue": queue_}]})


def completion(bench, queue: str, table: RequestTable) -> dict[int, float]:
    """Seconds until each program is through."""
    rows = bench.run(table, plan(queue)).recorder.requests.columns()
    session = table.session.codes[rows["row"]]
    return {int(p): float(rows["ended"][session == p].max()) / TICKS for p in np.unique(session)}


def test_atlas_does_not_hold_branches_against_each_other(bench) -> None:
    """A program of nine branches has had eleven calls' service at its last one, but its chain is of three: beside
    programs of six calls in a row it is through sooner by the chain than by the sum."""
    table = programs([fan(9), *[chain(6)] * 6])
    by_sum, by_chain = (completion(bench, queue, table)[0] for queue in ("plas", "atlas"))
    assert by_chain < 0.9 * by_sum


def test_for_calls_in_a_row_the_two_are_one(bench) -> None:
    table = programs([chain(n) for n in (1, 2, 3, 5, 8, 3, 2)])
    rows = [bench.run(table, plan(queue)).recorder.requests.columns()["ended"] for queue in ("plas", "atlas")]
    np.testing.assert_array_equal(*rows)


def test_the_three_engines_agree(bench) -> None:
    bench.same(load_plan(str(PLAN)), programs([fan(4), chain(5), fan(2), chain(1)], output=40))
