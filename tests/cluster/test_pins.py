"""KV caches kept between turns: pins in every engine, time to live, learning, deadlocks, bad plans."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servecast.errors import InputError
from servecast.sim.keep.pins import Turn
from servecast.sim.policies.registry import make_policy
from servecast.sim.program import Program
from servecast.sim.report.programs import program_figures
from servecast.traces.columns import Labels, PrefixBlocks
from servecast.traces.programs import ParentRows, Programs
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable

RETENTIONS = {
    "continuum": {"name": "continuum", "enough": 5},
    "continuum that gives way": {"name": "continuum", "enough": 5, "gives_way": True},
    "fork": {"name": "continuum", "variant": "fork"},
    "static": {"name": "static_ttl", "seconds": 0.5},
    "for ever": {"name": "static_ttl", "seconds": 1e6},
    "infercept": "infercept",
    "end of turn": "end_of_turn",
}


@pytest.mark.parametrize("name", RETENTIONS)
@pytest.mark.parametrize("keys", [{}, {"num_gpu_blocks_override": 70, "replicas": 2}])
def test_all_engines_agree_with_pins(small, programs, name, keys):
    plan = small.plan(
        [{"queue": "program_fcfs", **keys}], retention=RETENTIONS[name], router={"name": "session_home"}
    )  # fmt: skip
    result = small.run_all(plan, programs())
    assert program_figures(result)["finished"] == 40


@pytest.mark.parametrize("keys", [{"pipeline_parallel_size": 2}, {"eviction": "lfu"}, {"max_num_seqs": 3}])
def test_pins_with_stages_other_eviction_and_few_slots(small, programs, keys):
    small.run_all(small.plan([{"queue": "plas", **keys}], retention=RETENTIONS["continuum"]), programs(1), oracle=True)


@pytest.mark.parametrize("name", ["continuum", "static"])
def test_pins_of_clients_that_hang_up_and_of_replicas_that_crash(small, programs, name):
    plan = small.plan(
        [{"replicas": 2, "num_gpu_blocks_override": 80}], retention=RETENTIONS[name],
        clients={"timeout": 2.0, "retries": 1, "backoff": 0.1},
        faults={"events": [{"at": 3.0, "kind": "crash", "replica": "pool0/0", "duration": 1.0}]},
    )  # fmt: skip
    small.run_all(plan, programs(2))


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    blocks=st.integers(66, 140),
    seqs=st.integers(1, 8),
    name=st.sampled_from(["for ever", "continuum", "continuum that gives way", "static"]),
    queue=st.sampled_from(["fcfs", "program_fcfs", "plas"]),
    seed=st.integers(0, 10**6),
)
def test_pins_never_deadlock(small, blocks, seqs, name, queue, seed):
    """Memory that a few contexts fill, pinned for ever: every program still ends, and no block is lost."""
    s = Stream(seed, "pins")
    rows = []  # program, prompt, output, parent
    for i in range(30):
        if rows and s.below(3):
            program, prompt, output, _ = rows[-1]
            rows.append((program, min(700, prompt + output + s.below(200)), 1 + s.below(60), [i - 1]))
        else:
            rows.append((i, 1 + s.below(600), 1 + s.below(60), []))
    program, prompt, output, parents = (list(column) for column in zip(*rows, strict=True))
    table = RequestTable(
        np.zeros(30), np.array(prompt), np.array(output), session=Labels.of(list(map(str, program))),
        programs=Programs(ParentRows.of(parents), s.uniform(30), Labels.of(["tool"] * 30), np.full(30, np.inf)),
        blocks=PrefixBlocks.of(
            16, "floor", [[1000 * p + j for j in range(n // 16)] for p, n in zip(program, prompt, strict=True)]
        ),
    )  # fmt: skip
    plan = small.plan(
        [{"num_gpu_blocks_override": blocks, "max_num_seqs": seqs, "queue": queue}], retention=RETENTIONS[name]
    )
    result = small.run(table, plan)
    small.check(result)
    assert program_figures(result)["finished"] == len(set(program))


def test_a_pin_keeps_what_others_would_evict(small, programs):
    def recomputed(retention):
        return program_figures(small.run(programs(3), small.plan([{"num_gpu_blocks_override": 90}], **retention)))[
            "recomputed_share"
        ]

    none = recomputed({})
    assert recomputed({"retention": {"name": "static_ttl", "seconds": 60}}) < 0.9 * none
    assert recomputed({"retention": "end_of_turn"}) > none


def turn(context=1000, tool="ls", others=0, prefill=2.0, load=None):
    return Turn(Program(0, 0), tool, context, others, lambda tokens, cached: prefill * tokens / 1000, load)


def test_continuum_is_its_formula():
    """The cold start, the argmax by brute force, the tool's own gaps once there are enough, eta, and the fork."""
    policy = make_policy("retention", "continuum", {"enough": 3, "window": 2})
    assert policy.ttl(turn()) == pytest.approx(math.log(2.0))  # optimum for gaps ~ Exp(1)
    assert policy.ttl(turn(prefill=0.5)) == 0.0
    for gap in (0.1, 0.3, 5.0, 0.2):
        policy.observe_gap("ls", gap)
    policy.observe_gap("web", 3.0)
    for wait in (9.0, 1.0, 2.0):
        policy.observe_wait(wait)  # the window holds the last two
    assert policy.eta() == 1.0
    for turns in (5, 5, 5):
        policy.observe_end(turns)
    assert policy.eta() == pytest.approx(1.0)  # always five turns: those had say all about those to come

    def best(gaps, gain):
        return max([0.0, *gaps], key=lambda t: (sum(g <= t for g in gaps) / len(gaps) * gain - t, -t))

    ls = [0.1, 0.3, 5.0, 0.2]
    for prefill in (0.01, 0.2, 1.0, 40.0):
        gain = 1.5 * policy.eta() + prefill
        assert policy.ttl(turn(prefill=prefill)) == pytest.approx(best(ls, gain))
        assert policy.ttl(turn(tool="web", prefill=prefill)) == pytest.approx(best([*ls, 3.0], gain))
    fork = make_policy("retention", "continuum", {"variant": "fork"})
    fork.observe_gap("web", 3.0)
    fork.observe_gap("ls", 1.0)
    assert (fork.ttl(turn(tool="web")), fork.ttl(turn(tool="ls"))) == (0.0, 2.0)


def test_turns_that_end_at_random_say_nothing_about_those_to_come():
    """Geometric turns are memoryless, so eta is about 0 (2,000 programs, heavy-tailed products: within 0.1)."""
    policy = make_policy("retention", "continuum", {})
    for turns in (1 + np.floor(Stream(0, "turns").exponential(2000) * 5)).astype(int).tolist():
        policy.observe_end(turns)
    assert abs(policy.eta()) < 0.1
    steady = make_policy("retention", "continuum", {})
    for turns in (10, 11, 9, 10):
        steady.observe_end(turns)
    assert steady.eta() > 0.9


def test_infercept_preserves_less_the_faster_the_swap_and_the_fuller_the_engine():
    rule = make_policy("retention", "infercept", {})
    alone = rule.ttl(turn())
    assert alone == pytest.approx(1.0)  # half the recomputation
    assert rule.ttl(turn(others=10_000)) > alone
    assert rule.ttl(turn(others=10_000, load=lambda tokens: 0.1)) < rule.ttl(turn(others=10_000))
    assert rule.ttl(turn(others=10_000, load=lambda tokens: 1e-4)) == 0.0  # hides behind one iteration


@pytest.mark.parametrize(
    ("pools", "keys", "parts"),
    [
        ({}, {"retention": "continuumm"}, ["retention", "'continuumm'", "did you mean 'continuum'?"]),
        ({}, {"retention": {"name": "static_ttl", "seconds": -1}}, ["retention.seconds", "-1", "0 or more"]),
        ({"enable_prefix_caching": False}, {"retention": "continuum"}, ["pools[0].enable_prefix_caching", "true"]),
        ({"role": "prefill"}, {"retention": "continuum"}, ["retention", "mixed pools"]),
        ({"eviction": "lruu"}, {}, ["pools[0].eviction", "did you mean 'lru'?"]),
        ({"queue": {"name": "plas", "quantum": 0}}, {}, ["pools[0].queue.quantum", "above 0"]),
    ],
)
def test_plans_that_cannot_keep_anything(small, programs, pools, keys, parts):
    more = [{"role": "decode"}] if pools.get("role") else []
    with pytest.raises(InputError) as caught:
        small.run(programs(), small.plan([pools, *more], **keys))
    for part in parts:
        assert part in str(caught.value)


def test_a_trace_without_programs_has_nothing_to_keep(small):
    with pytest.raises(InputError, match="retention: given, and memory has no programs"):
        small.run(small.table(10, 1.0), small.plan([{}], retention="continuum"))
