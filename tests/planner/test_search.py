"""The search against exhaustive simulation, and its answers where the answer is known."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servecast.errors import InputError
from servecast.planner.candidates import find_candidates, fleet_plan
from servecast.planner.inventory import Inventory, Stock
from servecast.planner.measure.cache import Cache
from servecast.planner.measure.judge import Judge
from servecast.planner.measure.targets import Targets
from servecast.planner.search.baselines import closed_form
from servecast.planner.search.exhaustive import cheapest, fleets
from servecast.planner.search.search import Found, Search
from servecast.sim.report.report import build_report
from servecast.sim.run import run
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable


def study(name: str) -> Any:
    """The module of a study."""
    path = Path(__file__).parents[2] / "bench" / "studies" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{name}_study", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


small = study("planner_small")
market, random_case, slo = small.market, small.random_case, small.slo


@pytest.mark.parametrize("seed", [2, 6, 19])
def test_the_plan_of_a_small_space_is_the_exhaustive_one(seed: int) -> None:
    """Within 0.5 % of its cost, with a tenth of the requests that replaying every fleet takes; 20 in `make studies`."""
    inventory, table, asked = random_case(seed)
    judge = Judge(Cache(None))
    search = Search(market(inventory, table, asked, judge), solver="highs")
    found = search.run()
    spent = judge.requests
    best = cheapest(search)
    assert best and found.best
    assert found.bound <= best.price * (1 + 1e-9)
    assert found.best.price <= 1.005 * best.price
    assert spent * 10 <= len(fleets(search)) * len(table)


def lengths(rate: float, requests: int, prompt: int, output: int) -> RequestTable:
    """Poisson arrivals; Gamma lengths, CV 0.5."""
    stream = Stream(1, "lengths")
    arrival = np.cumsum(stream.exponential(requests)) / rate
    size = [np.maximum(1, stream.gamma(requests, 4.0) / 4 * mean).astype(np.int64) for mean in (prompt, output)]
    return RequestTable(arrival - arrival[0], np.minimum(size[0], 14000), np.minimum(size[1], 2000))


def planned(table: RequestTable, limits: tuple[str, str], **more: object) -> Found:
    values = {"gpus": {"h100": Stock(10)}, "role": ("mixed", "prefill", "decode"), "tensor_parallel_size": (1,)}
    inventory = Inventory("llama-3.1-8b", **{**values, "max_num_batched_tokens": (None,), **more})  # type: ignore[arg-type]
    return Search(market(inventory, table, slo(*limits)), solver="highs").run()


def roles(found: Found) -> set[str]:
    assert found.best
    return {name.rpartition("-")[2] for name in found.best.counts} & {"prefill", "decode"}


def long_prompts() -> RequestTable:
    return lengths(10.0, 500, 6000, 150)


CASES: dict[str, tuple[Callable[[], RequestTable], tuple[str, str], dict[str, object], bool]] = {
    "long prompts, tight TPOT": (long_prompts, ("ttft p90 <= 2s", "tpot p90 <= 12ms"), {}, True),
    "the same over a slow link": (
        long_prompts, ("ttft p90 <= 2s", "tpot p90 <= 12ms"),
        {"links": {"network": {"bandwidth": 2e8}, "link": {"bandwidth": 2e8}}}, False,
    ),
    "short chats, small model": (
        lambda: lengths(40.0, 1000, 300, 150), ("ttft p90 <= 1s", "tpot p90 <= 40ms"), {}, False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_disaggregation_where_it_pays(case: str) -> None:
    make, limits, more, apart = CASES[case]
    assert bool(roles(planned(make(), limits, **more))) == apart


def test_bursts_need_headroom_that_a_mean_rate_misses() -> None:
    """A quarter of the same requests come six times as fast: what mean rate over capacity rents misses the SLO, and the
    plan has more replicas."""
    smooth = lengths(60.0, 1600, 600, 50)
    rate = np.where(np.arange(1600) // 200 % 4 == 3, 240.0, 48.0)
    gaps = Stream(3, "bursts").exponential(1600) / rate
    bursty = RequestTable(np.cumsum(gaps) - gaps[0], smooth.prompt_tokens, smooth.output_tokens)
    inventory = Inventory(
        "llama-3.1-8b", {"h100": Stock(24)}, max_num_batched_tokens=(None,), tensor_parallel_size=(1,)
    )
    prices = []
    for table in (smooth, bursty):
        search = Search(market(inventory, table, slo("ttft p99 <= 500ms", "tpot p99 <= 60ms")), solver="highs")
        found, sized = search.run(), closed_form(search)
        assert found.best and sized
        prices.append((found.best.price, sized.usd_per_hour, sized.verdict.met))
    assert prices[1][0] > prices[0][0]
    assert not prices[1][2]
    assert prices[1][0] > prices[1][1]


def test_a_second_search_takes_up_what_the_first_one_left(tmp_path: object) -> None:
    """The cache makes a search resumable: the same plan without a simulation."""
    inventory, table, asked = random_case(6)
    plans = []
    for _ in range(2):
        judge = Judge(Cache(tmp_path))  # type: ignore[arg-type]
        found = Search(market(inventory, table, asked, judge), solver="highs").run()
        plans.append((found.best and found.best.values, judge.simulations))
    assert plans[0][0] == plans[1][0]
    assert plans[0][1] and not plans[1][1]


@pytest.mark.parametrize("rush", [False, True])
def test_a_replay_that_ends_early_says_what_the_whole_one_says(rush: bool) -> None:
    """Whether the SLO holds never depends on where a replay was stopped; one that misses by far is much shorter. A rush
    is tried first, so that whoever keeps the SLO pays for it twice."""
    inventory, table, asked = random_case(2)
    if rush:
        gaps = np.diff(table.arrival, prepend=0.0)
        gaps[1500:1700] /= 2
        table = replace(table, arrival=np.cumsum(gaps))
    candidates, _ = find_candidates(inventory, table)
    judge, targets = Judge(Cache(None)), Targets.of(asked, len(table))
    seen = []
    for replicas in (1, 4):
        plan = fleet_plan(inventory, [replace(candidates[0].pool, replicas=replicas)])
        verdict = judge.replay(plan, table, targets)
        whole = build_report(run(table, plan), asked)["slo"]["objectives"]
        assert verdict.met == all(objective["met"] for objective in whole)
        assert verdict.stopped == (not verdict.met) and bool(verdict.intervals) == verdict.met
        seen.append((verdict.met, verdict.requests / len(table)))
    assert [met for met, _ in seen] == [False, True]
    assert seen[0][1] < 0.3 and seen[-1][1] == (1.1 if rush else 1.0)


def test_power_in_the_price_ends_the_search() -> None:
    """What a fleet draws is known after its replay only; the program may go on thinking less of it."""
    inventory, table, asked = random_case(6)
    found = Search(market(replace(inventory, electricity_per_kwh=0.2), table, asked), solver="highs").run()
    assert found.best
    assert found.best.price == pytest.approx(found.best.usd_per_hour + 0.2 / 1e3 * found.best.watts)
    assert found.bound <= found.best.price


def test_too_many_fleets_are_refused_before_any_is_replayed() -> None:
    inventory, table, asked = random_case(6)
    more = {gpu: replace(stock, count=100) for gpu, stock in inventory.gpus.items()}
    with pytest.raises(InputError, match=r"fleets of \d kinds of replicas; expected at most 5,000"):
        fleets(Search(market(replace(inventory, gpus=more), table, asked), solver="highs"))


def test_a_replica_carries_more_in_a_larger_pool() -> None:
    """Economies of scale: the bursts of a thinned trace leave one replica less than each of six gets of theirs."""
    inventory, table, asked = random_case(0)
    known = market(inventory, table, asked)
    candidate = next(known.known[name].candidate for name in known.known if "a100" in name)
    one, six = (known.capacity.pooled(candidate, n, 0.0, 0.25 * n) for n in (1, 6))
    assert one.high < six.low


def test_a_near_miss_that_is_noted_twice_is_left_out_once() -> None:
    """A type's fleets are noted when it is tried alone, though one of them may have been proposed before."""
    inventory, table, asked = random_case(19)
    search = Search(market(inventory, table, asked), solver="highs")
    name = next(iter(search.market.known))
    tried = search.attempt({name: 1})
    near = replace(tried.verdict, met=False, beyond=1.2)
    for _ in range(2):
        search._note({name: 1}, near)
    found = search.run()
    assert found.best and found.best.counts != {name: 1}


def test_the_same_gpus_in_replicas_of_another_size_may_do_with_less() -> None:
    """Where no proof ends the search: two GPUs apart in place of two that are one, and somebody left out."""
    gpus = {"h100": Stock(4), "l40s": Stock(8, price_per_hour=0.86)}
    inventory = Inventory("llama-3.1-8b", gpus, tensor_parallel_size=(1, 2), max_num_batched_tokens=(None,))
    asked = slo("ttft p99 <= 1s", "tpot p99 <= 60ms")
    search = Search(market(inventory, small.trace(40, 800, 1.0), asked), solver="highs")
    large = search.attempt({"h100-tp2-pp1": 1, "l40s-tp1-pp1": 2})
    assert large.verdict.met and search._regroup()
    best = search._best
    assert best and best.verdict.met and best.price < large.price and "h100-tp1-pp1" in best.counts
