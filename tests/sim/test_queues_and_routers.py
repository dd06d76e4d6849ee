"""Queue policies, victims and routers as pure functions: who goes first, who goes without, and where."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from servecast.errors import InputError
from servecast.sim.policies.registry import make_policy
from servecast.traces.streams import Stream


@dataclass(slots=True)
class FakeRequest:
    """What such a policy looks at in a request."""

    name: str
    arrival: int = 0
    index: int = 0
    priority: int = 0
    estimate: float = 0.0


# -- KV, queue, router -------------------------------------------------------------------------------------------


def test_the_last_on_the_running_list_is_the_victim():
    """vLLM pops the end of its list: the newest admitted (v1) or the newest arrived (v0, Sarathi)."""
    running = [FakeRequest("old"), FakeRequest("new")]
    assert make_policy("kv", "recompute", {}).victim(running).name == "new"


def test_under_priority_the_victim_has_the_greatest_value_then_the_latest_arrival():
    ranks = {"a": (2, 1), "b": (2, 5), "c": (0, 9)}
    running = [FakeRequest(name, arrival, 0, priority) for name, (priority, arrival) in ranks.items()]
    assert make_policy("kv", "recompute", {"victim_rule": "lowest_priority"}).victim(running).name == "b"


def test_swap_is_recompute_but_for_where_a_victims_blocks_go():
    parameters = {"reserve": "prompt", "watermark": 0.01, "every_decode_needs_a_free_block": True}
    swap, recompute = (make_policy("kv", name, parameters) for name in ("swap", "recompute"))
    assert swap.swaps and not recompute.swaps
    assert vars(swap) == {**vars(recompute), "group": 1, "keep": False, "overlap": False}


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("fcfs", ["early", "middle", "late"]),
        ("priority", ["late", "early", "middle"]),
        ("sjf", ["middle", "late", "early"]),
    ],
)
def test_queue_orders(name, order):
    requests = [
        FakeRequest("early", arrival=1, priority=1, estimate=30.0),
        FakeRequest("middle", arrival=2, priority=1, estimate=10.0),
        FakeRequest("late", arrival=3, priority=0, estimate=20.0),
    ]
    assert [r.name for r in sorted(requests, key=make_policy("queue", name, {}).key)] == order


@dataclass(slots=True)
class FakeReplica:
    """What a router may know of a replica."""

    id: int
    requests: int = 0
    tokens: int = 0
    free_share: float = 1.0


def route(name, replicas, n=1, seed=0, **parameters):
    router = make_policy("router", name, parameters)
    if hasattr(router, "begin"):
        router.begin(Stream(seed, "router"))
    return [router.route(FakeRequest("r"), replicas) for _ in range(n)]


def test_round_robin_takes_turns():
    assert route("round_robin", [FakeReplica(i) for i in range(3)], 7) == [0, 1, 2, 0, 1, 2, 0]


def test_least_outstanding_by_requests_or_tokens_and_the_first_wins_ties():
    replicas = [FakeReplica(0, 3, 10), FakeReplica(1, 2, 99), FakeReplica(2, 2, 50)]
    assert route("least_outstanding", replicas) == [1]
    assert route("least_outstanding", replicas, by="tokens") == [0]


def test_most_free_kv():
    assert route("most_free_kv", [FakeReplica(0, free_share=0.2), FakeReplica(1, free_share=0.7)]) == [1]


def test_random_is_uniform():
    """Chi-square with 3 degrees of freedom stays below 16.3 in 999 of 1000 draws; the stream is seeded."""
    chosen = route("random", [FakeReplica(i, requests=i) for i in range(4)], 4000)
    assert sum((chosen.count(i) - 1000) ** 2 / 1000 for i in range(4)) < 16.3


def test_power_of_two_draws_two_different_ones_and_takes_the_less_loaded():
    """Of loads 0 < 1 < 2 < 3 a pair picks 0 in 3 of 6 cases, 1 in 2 of 6, 2 in 1 of 6 and the worst never.

    Chi-square with 2 degrees of freedom stays below 13.8 in 999 of 1000 draws.
    """
    chosen = route("power_of_two", [FakeReplica(i, requests=i) for i in range(4)], 6000)
    assert chosen.count(3) == 0
    assert sum((chosen.count(i) - e) ** 2 / e for i, e in enumerate((3000, 2000, 1000))) < 13.8
    assert route("power_of_two", [FakeReplica(0)], 3) == [0, 0, 0]


def test_wrong_parameters_are_refused():
    for kind, name, parameters in (
        ("kv", "recompute", {"watermark": 1.0}),
        ("kv", "recompute", {"watermrk": 0.1}),
        ("batch", "vllm_v1", {"watermark": -0.1}),
        ("batch", "sarathi", {"batching": "sometimes"}),
        ("router", "nearest", {}),
    ):
        with pytest.raises(InputError):
            make_policy(kind, name, parameters)
