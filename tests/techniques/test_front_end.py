"""Before the router: the semantic cache and its break-even, and small models with examples."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from servecast.configs.plan import plan_from
from servecast.errors import InputError
from servecast.sim.records import End
from servecast.traces.columns import Labels
from servecast.traces.table import RequestTable

TICKS = 1 << 36


def plan(cache=None, **more):
    pools = [{"name": "p", "hardware": "h100", "max_model_len": 8192}]
    data = {"model": "llama-3.1-8b", "engine": "vllm-0.19", "pools": pools, **more}
    return plan_from({**data, "semantic_cache": cache} if cache else data)


def lonely(n=2000, output=30) -> RequestTable:
    """Requests that never meet, all alike."""
    return RequestTable(np.arange(n) * 10.0, np.full(n, 500), np.full(n, output))


def mean_e2e(bench, plan, table) -> float:
    rows = bench.run(table, plan).recorder.requests.columns()
    return float(np.mean(rows["ended"] - rows["arrival"])) / TICKS


def test_the_break_even_hit_rate_is_the_searchs_share_of_the_time_that_a_hit_saves(bench) -> None:
    """E2E = search + (1 - h) x LLM, so a cache pays from h = search / LLM on; simulated, above and below it. Five
    standard deviations of a share of 2000 draws are the tolerance."""
    table = lonely()
    llm = mean_e2e(bench, plan(), table)
    for search in (0.002, 0.03):
        for h in (0.0, search / llm, 2 * search / llm):
            cache = {"search": search, "categories": {"": {"hit_rate": h}}}
            error = 5 * llm * np.sqrt(h * (1 - h) / len(table)) + 1e-9
            assert mean_e2e(bench, plan(cache), table) == pytest.approx(search + (1 - h) * llm, abs=error)
        assert search + (1 - 2 * search / llm) * llm < llm < search + llm


def test_under_load_hits_relieve_the_queue_too(bench) -> None:
    """What a cache saves grows with the load: near saturation even half the break-even rate pays."""
    table = bench.workload(n=400, rate=38.0, prompt=1500, output=200)
    bare = mean_e2e(bench, plan(), table)
    cached = mean_e2e(bench, plan({"search": 0.03, "categories": {"": {"hit_rate": 0.1}}}), table)
    assert cached < 0.03 + 0.9 * bare


def repeated(n=1500, seconds=1.0) -> RequestTable:
    return RequestTable(np.arange(n) * seconds, np.full(n, 200), np.full(n, 5))


def hit_rate(bench, table=None, **category) -> float:
    done = bench.run(repeated() if table is None else table, plan({"search": 0.01, "categories": {"": category}}))
    found = done.front.figures()[""]
    assert found["searches"] == len(done.table)
    return found["hit_rate"]


def test_hits_come_from_questions_that_come_back(bench) -> None:
    """With every wording accepted, all but the first of each question hit: 1 - distinct / requests."""
    assert hit_rate(bench, questions=1) == pytest.approx(1 - 1 / 1500)
    one = hit_rate(bench, questions=40, alpha=0.0)
    assert one == pytest.approx(1 - 40 / 1500)
    skewed, flat = (hit_rate(bench, questions=3000, alpha=alpha) for alpha in (1.2, 0.0))
    assert skewed > 2 * flat


def test_thresholds_lifetimes_and_quotas_cost_hits(bench) -> None:
    base = {"questions": 40, "alpha": 0.5, "least_similarity": 0.6}
    for key, values in {"threshold": (0.6, 0.8, 0.95), "ttl": (1000, 40, 5), "quota": (40, 10, 2)}.items():
        rates = [hit_rate(bench, **{**base, "threshold": 0.7, key: value}) for value in values]
        assert all(less < more for more, less in pairwise(rates)), (key, rates)


def test_categories_are_kept_apart_and_load_loosens_thresholds(bench) -> None:
    table = bench.workload(n=300, rate=60.0, prompt=1500, output=200)
    kinds = Labels.of([("code", "chat")[i % 2] for i in range(300)])
    table = dataclasses.replace(table, request_class=kinds)
    kind = {"questions": 10, "least_similarity": 0.5, "threshold": 0.9}
    cache = {"search": 0.002, "categories": {"code": kind}}
    strict = bench.run(table, plan(cache)).front.figures()
    assert list(strict) == ["code"] and strict["code"]["searches"] == 150
    loose = bench.run(table, plan({**cache, "loosen": 0.3, "busy": 20})).front.figures()
    assert loose["code"]["hit_rate"] > strict["code"]["hit_rate"]


def test_a_cached_answer_is_whole_and_at_once(bench) -> None:
    done = bench.run(lonely(50), plan({"search": 0.01, "categories": {"": {"hit_rate": 1.0}}}))
    rows = done.recorder.requests.columns()
    assert all(done.invariants.values()) and np.all(rows["end"] == End.FINISHED)
    assert np.all(rows["ended"] - rows["arrival"] == round(0.01 * TICKS))
    assert np.all(rows["generated"] == 30) and np.all(rows["replica"] == -1)


def test_a_small_model_with_examples_relieves_the_large_one(bench) -> None:
    """IC-Cache: the share of the small one follows the load; latency falls although its prompts are longer."""
    pools = [
        {"name": "large", "hardware": "h100", "tensor_parallel_size": 4, "max_model_len": 8192},
        {
            "name": "small", "model": "llama-3.1-8b", "hardware": "h100", "max_model_len": 16384,
            "prepend_tokens": 2000,
        },
    ]  # fmt: skip
    router = {"name": "ic_cache", "small_pool": "small", "large_pool": "large", "share": 0.3, "busy_share": 0.9}

    def shares(rate: float, **parameters):
        table = bench.workload(n=300, rate=rate, prompt=600, output=200)
        made = plan_from({
            "model": "llama-3.1-70b", "engine": "vllm-0.19", "pools": pools, "router": {**router, **parameters},
        })  # fmt: skip
        done = bench.run(table, made)
        rows = done.recorder.requests.columns()
        small = rows["replica"] == 1
        np.testing.assert_array_equal(rows["prompt_tokens"], table.prompt_tokens[rows["row"]] + 2000 * small)
        return float(small.mean()), float(np.mean(rows["ended"] - rows["arrival"]))

    (calm, _), (rush, latency) = shares(1.0), shares(30.0)
    assert 0.3 - 0.1 < calm < rush <= 0.9 + 0.1
    _, alone = shares(30.0, share=0.0, busy_share=0.0)
    assert latency < alone


@pytest.mark.parametrize(
    ("cache", "words"),
    [
        ({"search": 0.01, "categories": {"": {"hit_rate": 1.5}}}, "a share from 0 to 1"),
        ({"search": -1, "categories": {"": {"hit_rate": 0.5}}}, "seconds"),
        ({"search": 0.01, "categories": {}}, "at least one"),
        ({"search": 0.01, "categories": {"": {}}}, "one of the two"),
        ({"search": 0.01, "categories": {"": {"hit_rate": 0.5, "questions": 3}}}, "one of the two"),
        ({"search": 0.01, "categories": {"": {"questions": 3, "quota": 0}}}, "at least 1 answer"),
        ({"search": 0.01, "categories": {"code": {"hit_rate": 0.5}}}, "class of this trace"),
    ],
)
def test_what_cannot_be_is_refused(bench, cache, words) -> None:
    with pytest.raises(InputError, match=words):
        bench.run(lonely(3), plan(cache))
