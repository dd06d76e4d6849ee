"""GPUs in several zones: links between zones decide what is planned, and replays of the whole trace agree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from servecast.configs.plan import load_plan
from servecast.configs.slo import SLO, Objective
from servecast.configs.topology import FabricLink
from servecast.errors import InputError
from servecast.planner.candidates import find_candidates
from servecast.planner.inventory import Inventory, Stock, load_inventory
from servecast.planner.measure.cache import Cache
from servecast.planner.measure.judge import Judge
from servecast.planner.measure.points import Capacity
from servecast.planner.measure.targets import Targets
from servecast.planner.measure.workload import Workload
from servecast.planner.milp import Outcome
from servecast.planner.program.fleet import Fleet, solve_fleet
from servecast.planner.program.problem import Offer, Problem, Scenario
from servecast.planner.program.transfers import closed_pairs
from servecast.planner.program.zones import too_slow, what_links_are_worth, with_ample_links
from servecast.planner.search.explain import _binding
from servecast.planner.search.market import Market
from servecast.planner.search.planfile import plan_of, write_plan
from servecast.planner.search.search import Found, Search
from servecast.sim.report.report import build_report
from servecast.sim.run import run
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable

FAST, SLOW = FabricLink(5e10, 0.001), FabricLink(3e9, 0.001)
ASKED = ("ttft p90 <= 450ms", "tpot p90 <= 25ms")


def lengths(rate: float, requests: int, prompt: int, output: int) -> RequestTable:
    """Poisson arrivals; Gamma lengths, CV 0.5."""
    stream = Stream(1, "zones")
    arrival = np.cumsum(stream.exponential(requests)) / rate
    size = [np.maximum(2, stream.gamma(requests, 4.0) / 4 * mean).astype(np.int64) for mean in (prompt, output)]
    return RequestTable(arrival - arrival[0], *size)


def slo(*objectives: str) -> SLO:
    return SLO({}, {}, tuple(Objective.parse(text, "slo") for text in objectives))


def market(inventory: Inventory, table: RequestTable, *objectives: str) -> Market:
    targets = Targets.of(slo(*objectives), len(table))
    capacity = Capacity(inventory, Workload.of(table), targets, Judge(Cache(None)))
    return Market(capacity, find_candidates(inventory, table)[0])


def inventory(gpus: dict[str, Stock], **more: Any) -> Inventory:
    values = {"tensor_parallel_size": (1,), "max_num_batched_tokens": (None,), **more}
    return Inventory("llama-3.1-8b", gpus, **values)


def two_zones(link: FabricLink) -> Inventory:
    """H100s here, and cheap A100s in another zone."""
    gpus = {"h100": Stock(4, zone="east"), "a100-80gb": Stock(4, price_per_hour=0.7, zone="west")}
    return inventory(gpus, role=("prefill", "decode"), zone_links={"east->west": link})


LONG = lengths(8.0, 160, 6000, 300)


def searched(link: FabricLink) -> tuple[Found, Search]:
    search = Search(market(two_zones(link), LONG, *ASKED), solver="highs")
    return search.run(), search


def replayed(values: dict[str, Any], table: RequestTable, *objectives: str) -> dict[str, Any]:
    """The report of the whole trace on a plan file's mapping."""
    return build_report(run(table, plan_of(values)), slo(*objectives))


def test_a_slow_link_flips_the_answer(tmp_path: Path) -> None:
    """6,000-token prompts of an 8B model, 786 MB of KV cache each at 8 requests/s: over 50 GB/s the cheap GPUs of the
    other zone decode; over 3 GB/s, half of what the KV caches take, all is done here for more. The same fleets miss
    the SLO or cost more with the other link, by full replay."""
    fleets = {}
    for name, link in (("fast", FAST), ("slow", SLOW)):
        found, _ = searched(link)
        assert found.best
        fleets[name] = found.best
        write_plan(found.best.values, tmp_path / f"{name}.yaml", [])
        report = build_report(run(LONG, load_plan(str(tmp_path / f"{name}.yaml"))), slo(*ASKED))
        assert all(o["met"] for o in report["slo"]["objectives"])
        crossed = report["simulation"]["cluster"]["links"].get("east->west", {"bytes": 0})["bytes"]
        assert bool(crossed) == (name == "fast")
    fast, slow = fleets["fast"], fleets["slow"]
    assert {p["fabric"] for p in fast.values["pools"] if p["role"] == "decode"} == {"west"}
    assert {p["fabric"] for p in slow.values["pools"]} == {"east"}
    assert "links" not in slow.values
    assert fast.price < slow.price
    over_slow = {**fast.values, "links": {"fabrics": {"east->west": vars(SLOW)}}}
    missed = [o for o in replayed(over_slow, LONG, *ASKED)["slo"]["objectives"] if not o["met"]]
    assert [o["objective"] for o in missed] == ["tpot p90 <= 25ms"] and missed[0]["dominating"] == "transfer"


def test_one_card_in_two_zones_is_measured_once_and_mixed_replicas_need_no_link() -> None:
    """The cheap zone has too few of them for the load: the plan has mixed pools in both."""
    gpus = {
        "here": Stock(3, zone="east", hardware="h100"),
        "there": Stock(2, zone="west", hardware="h100", price_per_hour=1.0),
    }
    table = lengths(90.0, 500, 900, 100)
    known = market(inventory(gpus), table, "ttft p90 <= 500ms", "tpot p90 <= 40ms")
    surveyed = known.capacity.judge
    assert surveyed.hits >= surveyed.simulations
    found = Search(known, solver="highs").run()
    assert found.best
    pools = found.best.values["pools"]
    assert [(p["hardware"], p["fabric"]) for p in pools] == [("h100", "east"), ("h100", "west")]
    assert found.best.counts["there-tp1-pp1"] == 2
    report = replayed(found.best.values, table, "ttft p90 <= 500ms", "tpot p90 <= 40ms")
    assert all(o["met"] for o in report["slo"]["objectives"])


def test_latency_and_bandwidth_close_pairs_by_arithmetic() -> None:
    """Of n tokens the first comes before the transfer: a pull waits twice for the latency, a push once."""
    table = RequestTable(np.arange(60) * 0.5, np.full(60, 4000), np.full(60, 101))
    surveyed = market(two_zones(FAST), table, *ASKED)
    cheapest = surveyed.known["a100-80gb-tp1-pp1-decode"]
    left = 0.025 - cheapest.isolated[0].tpot  # s a token for the transfer, of 100 tokens
    size = cheapest.candidate.kv.request_bytes(4000)

    def ruled_out(link: FabricLink, **more: Any) -> list[tuple[str, int, int]]:
        asked = replace(two_zones(link), **more)
        capacity = replace(surveyed.capacity, inventory=asked)
        surveyed.inventory, surveyed.capacity = asked, capacity
        problem = replace(surveyed.problem([]), closed=frozenset())
        isolated = {name: known.isolated for name, known in surveyed.known.items()}
        return list(too_slow(replace(problem, closed=closed_pairs(problem, capacity, isolated))))

    assert ruled_out(FabricLink(5e10, 100 * left * 0.45)) == []
    assert ruled_out(FabricLink(5e10, 100 * left * 0.55)) == [("east to west", 1, 1)]
    assert ruled_out(FabricLink(5e10, 100 * left * 0.55), disaggregation={"direction": "push"}) == []
    assert ruled_out(FabricLink(1.05 * size / (100 * left), 0.0)) == []
    assert ruled_out(FabricLink(0.95 * size / (100 * left), 0.0)) == [("east to west", 1, 1)]


def offer(name: str, gpu: str, usd: float, rate: float, role: Any) -> Offer:
    return Offer(name, gpu, 1, usd, 16, (rate,), rate / 10, role=role, kv_bytes=(1e9,))


ZONES = {"h100": "east", "l40s": "east", "a100": "west"}


def program(*offers: Offer, **more: Any) -> Problem:
    """10 requests/s of 1 GB for an hour."""
    values = {"scenarios": (Scenario("trace", 3600.0, (36000.0,)),), "rates": (10.0,), "zones": ZONES, **more}
    return Problem(offers, stock=dict.fromkeys(ZONES, (16, 8)), **values)


PAIR = (offer("p", "h100", 1.0, 5.0, "prefill"), offer("near", "l40s", 3.0, 2.5, "decode"))
FAR = offer("far", "a100", 1.0, 2.5, "decode")


def test_what_a_gb_more_a_second_is_worth() -> None:
    """Over 5 GB/s half of the requests are decoded in the cheap zone; each request/s more saves (3 - 1) / 2.5 $/h."""
    half = program(*PAIR, FAR, links={("east", "west"): 5e9})
    found = solve_fleet(half, solver="highs")
    assert isinstance(found, Fleet) and found.counts == {"p": 2, "near": 2, "far": 2}
    relaxed = solve_fleet(half, solver="highs", relaxed=True)
    assert isinstance(relaxed, Fleet)
    assert dict(what_links_are_worth(half, relaxed.outcome.duals)) == {"east to west": pytest.approx(0.8)}
    said = "in the relaxation, the link from east to west binds: 1 GB/s more would save 0.8 $/h"
    assert said in _binding(half, SimpleNamespace(solver="highs"))  # type: ignore[arg-type]
    ample = solve_fleet(replace(half, links={("east", "west"): 2e10}), solver="highs")
    assert isinstance(ample, Fleet) and ample.counts == {"p": 2, "far": 4}


def test_links_must_carry_busy_windows_too() -> None:
    """A minute at twice the rate over a link for the mean: what it cannot carry is decoded near."""
    rush = Scenario("rush", 60.0, (1200.0,))
    calm = program(*PAIR, FAR, links={("east", "west"): 1e10})
    busy = replace(calm, scenarios=(*calm.scenarios, rush))
    found = [solve_fleet(problem, solver="highs") for problem in (calm, busy)]
    assert [f.counts for f in found if isinstance(f, Fleet)] == [
        {"p": 2, "far": 4}, {"p": 4, "near": 4, "far": 4},
    ]  # fmt: skip


def test_zones_without_a_link_do_not_hand_over() -> None:
    """Side by side they may, each by itself, if that is allowed and nobody is mixed."""
    alone = program(PAIR[0], FAR)
    assert isinstance(solve_fleet(alone, solver="highs"), Outcome)
    opened = {what: solve_fleet(free, solver="highs") for what, free in with_ample_links(alone)}
    assert [what for what, answer in opened.items() if isinstance(answer, Fleet)] == ["no link from east to west"]
    back = program(PAIR[0], FAR, links={("west", "east"): 1e12})
    assert isinstance(solve_fleet(back, solver="highs"), Outcome)
    few = [replace(o, most=2) for o in (*PAIR, FAR, offer("q", "a100", 1.0, 5.0, "prefill"))]
    split = program(*few)  # 5 requests/s in each zone
    each = solve_fleet(split, solver="highs")
    assert isinstance(each, Fleet) and each.counts == {"p": 1, "near": 2, "far": 2, "q": 1}
    anywhere = replace(split, near=False)
    assert isinstance(solve_fleet(anywhere, solver="highs"), Outcome)
    both = replace(anywhere, links={("east", "west"): 1e12, ("west", "east"): 1e12})
    assert isinstance(solve_fleet(both, solver="highs"), Fleet)
    short = replace(few[1], most=1)  # what is missing there is mixed
    mixed = replace(offer("m", "l40s", 1.0, 2.5, "mixed"), most=1)
    assert isinstance(solve_fleet(replace(split, offers=(few[0], short, *few[2:], mixed)), solver="highs"), Outcome)


def test_zones_that_do_both_keep_their_prompts() -> None:
    """Neither zone has enough GPUs, and no link joins them: prompts are decoded where they are computed, and the
    router sends each zone what it decodes."""
    gpus = {zone: Stock(2, zone=zone, hardware="h100") for zone in ("east", "west")}
    asked = ("ttft p90 <= 1500ms", "tpot p90 <= 14ms")
    table = lengths(12.0, 200, 6000, 150)
    found = Search(market(inventory(gpus, role=("prefill", "decode")), table, *asked), solver="highs").run()
    assert found.best and len(found.best.counts) == 4 and set(found.best.counts.values()) == {1}
    assert found.best.values["disaggregation"]["near"] is True
    report = replayed(found.best.values, table, *asked)
    assert all(o["met"] for o in report["slo"]["objectives"])


BASE = "model: llama-3.1-8b\ngpus:\n  h100: {count: 2, zone: east}\n  a100-80gb: {count: 2, zone: west}\n"


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        (BASE + "zone_links: {east->wst: {bandwidth: 1e9, latency: 0}}", "zone_links.east->wst", "'west'"),
        (BASE + "zone_links: {east->east: {bandwidth: 1e9, latency: 0}}", "zone_links.east->east", "to itself"),
        (BASE + "zone_links: {east: {bandwidth: 1e9, latency: 0}}", "zone_links.east", "`east->west`"),
        (BASE + "zone_links: {east->west: {bandwidth: 50, latency: 0}}", "east->west.bandwidth", "100 Gb/s are"),
        (BASE + "zone_links: {east->west: {bandwidth: 1e9, latency: 5}}", "east->west.latency", "2 ms are 0.002"),
        (BASE + "zone_links: {east->west: {bandwidth: 1e9}}", "east->west.latency", "missing"),
        (BASE + "links: {fabrics: {east->west: {bandwidth: 1e9, latency: 0}}}", "links.fabrics", "`zone_links`"),
        (BASE + "  l40s: {count: 1}", "gpus.l40s.zone", "missing"),
        (BASE + "  more: {count: 1, zone: east, hardware: h100}", "gpus.more", "same card and zone as h100"),
        (BASE + "  more: {count: 1, zone: east, hardware: h10}", "gpus.more.hardware", "'h100'"),
        (BASE + "  more: {count: 1, zone: east}", "gpus.more", "no hardware"),
        (BASE + "defaults: {fabric: east}", "defaults.fabric", "no key of a pool that is set here"),
    ],
)  # fmt: skip
def test_mistakes_about_zones_are_named(tmp_path: Path, text: str, where: str, words: str) -> None:
    (tmp_path / "inventory.yaml").write_text(text)
    with pytest.raises(InputError) as error:
        load_inventory(tmp_path / "inventory.yaml")
    assert error.value.where.endswith(where) and words in str(error.value)
