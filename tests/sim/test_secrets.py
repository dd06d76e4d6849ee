"""No policy can see how long an answer will be: neither look it up nor be swayed by it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from servecast.sim.core import RankView
from servecast.sim.policies.registry import BUILT_IN
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable

SECRET = 7919  # the true length of every answer below
THE_ENGINES_OWN = {"cohort", "base", "token_base", "finish", "engine", "interference_base", "host_base"}  # core.Request


def reachable(thing, seen):
    """Every number that can be read off a view or a request by names that a policy may use, methods called."""
    if isinstance(thing, int | float):
        yield thing
    elif isinstance(thing, str) or thing is None or id(thing) in seen:
        return
    elif isinstance(thing, Iterable):
        seen.add(id(thing))
        for item in thing:
            yield from reachable(item, seen)
    else:
        seen.add(id(thing))
        names = dir(thing)
        if hasattr(thing, "free_blocks"):
            names = dir(RankView)
        for name in names:
            if name.startswith("_") or name in THE_ENGINES_OWN:
                continue
            value = getattr(thing, name)
            yield from reachable(value() if name in ("tokens", "context", "ordered") else value, seen)


@pytest.mark.parametrize("blocks", [60, 10_000])
def test_the_true_length_of_an_answer_is_nowhere_to_be_seen(lab, blocks):
    """Neither it nor what is left of it can be read off the real view, its requests or its limits at any decision."""
    decided = 0

    def search(view, step):
        nonlocal decided
        decided += 1
        numbers = set(reachable(view, set()))
        assert numbers
        produced = {r.tokens() for r in [*view.ordered(), *view.waiting]}
        assert not numbers & ({SECRET} | {SECRET - n for n in produced} | {r + SECRET for r in (4, 5, 6)})

    table = RequestTable(np.arange(3) / 100, np.array([4, 5, 6]), np.full(3, SECRET))
    setup = lab.Setup(batch="vllm_v1", blocks=blocks, max_model_len=10_000)
    lab.simulate(setup, table, "step", spy=search, until=1.0)
    assert decided > 50


@pytest.mark.parametrize("batch", sorted(BUILT_IN["batch"]))
def test_decisions_do_not_depend_on_what_has_yet_to_be_generated(lab, batch):
    """Two worlds that differ only in how long the answers will be look alike until the first of them ends."""
    setup = lab.Setup(batch=batch, blocks=120, max_model_len=512, max_num_batched_tokens=512, replicas=2)

    def decisions(answers):
        log = []
        table = RequestTable(np.arange(40) / 200, np.full(40, 50), answers)
        spy = lambda view, step: log.append((view.now, step.decodes, names(step.chunks), names(step.admit)))  # noqa: E731
        outcome = lab.simulate(replace(setup), table, "step", spy=spy)
        first_end = outcome.column("ended").min()
        return [(at, *rest) for at, *rest in log], first_end, outcome.column("replica")

    def names(parts):
        return [(part[0].index, part[1]) for part in parts]

    s = Stream(0, "answers")
    (one, end_one, to_one), (two, end_two, to_two) = (decisions(60 + s.integers(40, 60)) for _ in range(2))
    both = min(end_one, end_two)
    before = [[entry for entry in log if entry[0] < both] for log in (one, two)]
    assert before[0] == before[1] and len(before[0]) > 50
    arrived = np.arange(40) / 200 * lab.TICKS < both
    np.testing.assert_array_equal(to_one[arrived], to_two[arrived])
