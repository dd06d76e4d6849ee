"""The numbered invariants of the design (section 6), on small random worlds.

Elsewhere: reruns and replays (6, 8) in `test_reruns.py`, leap = step by step = list-walking oracle (7) in
`test_three_engines.py`, queueing theory (9) in `test_queueing_theory.py`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from math import inf

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servecast.configs.plan import plan_from
from servecast.errors import InputError
from servecast.sim.records import COMPONENTS, TIMES, End
from servecast.sim.run import run
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable

WHOLE_PROMPT = {"reserve": "prompt", "watermark": 0.01, "every_decode_needs_a_free_block": True, "arrival_order": True}
ENGINES = {
    "v1": {"batch": "vllm_v1"},
    "v1 in few tokens": {"batch": "vllm_v1", "max_num_batched_tokens": 20},
    "v1 unchunked": {"batch": "vllm_v1", "enable_chunked_prefill": False, "max_num_batched_tokens": 2048},
    "v1 threshold": {"batch": "vllm_v1", "long_prefill_token_threshold": 40},
    "v1 priority": {
        "batch": "vllm_v1", "queue": "priority", "kv": "recompute", "kv_parameters": {"victim_rule": "lowest_priority"},
    },
    "v0": {"batch": "vllm_v0", "max_num_batched_tokens": 2048},
    "v0 swap": {
        "batch": "vllm_v0", "max_num_batched_tokens": 2048,
        "kv": "swap", "kv_parameters": WHOLE_PROMPT, "host_blocks": 50,
    },
    "sarathi": {"batch": "sarathi", "max_num_batched_tokens": 64},
    "sarathi chunks only": {
        "batch": "sarathi", "batch_parameters": {"batching": "chunked_prefills_only"}, "max_num_batched_tokens": 64,
    },
    "orca": {"batch": "orca", "max_model_len": 512},
    "static": {"batch": "static", "max_model_len": 512, "max_num_batched_tokens": 2048},
}  # fmt: skip

worlds = st.fixed_dictionaries(
    {
        "engine": st.sampled_from(sorted(ENGINES)),
        "blocks": st.integers(40, 200),
        "seqs": st.integers(1, 24),
        "replicas": st.integers(1, 2),
        "rate": st.sampled_from([5.0, 60.0, 400.0]),
        "prompt": st.integers(1, 250),
        "output": st.integers(1, 100),
        "burst": st.booleans(),
        "seed": st.integers(0, 10**6),
    }
)
impatience = st.fixed_dictionaries(
    {
        "timeout": st.sampled_from([inf, 0.2, 1.0]),
        "first_token_timeout": st.sampled_from([inf, 0.1]),
        "retries": st.integers(0, 2),
        "cancel": st.booleans(),
    }
)
property_test = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def build(lab, world, patience=None):
    """A world of `worlds`, with or without `impatience`, as (setup, table)."""
    setup = lab.Setup(**ENGINES[world["engine"]])
    setup.blocks, setup.max_num_seqs, setup.replicas = world["blocks"], world["seqs"], world["replicas"]
    setup.max_model_len = min(setup.max_model_len, setup.blocks * setup.block_size)  # as `deploy` sees to it
    n = 40
    table = lab.workload(n, world["rate"], world["prompt"], world["output"], world["seed"], world["burst"])
    if patience:
        setup.timeout, setup.first_token_timeout = patience["timeout"], patience["first_token_timeout"]
        setup.retries = patience["retries"]
        if patience["cancel"]:
            setup.cancel_after = np.where(np.arange(n) % 3, inf, Stream(world["seed"], "patience").exponential(n) * 0.3)
    return setup, table


def seconds(ticks):
    return np.asarray(ticks) / 2**36


# -- 1 requests are conserved over end states --------------------------------------------------------------------


@property_test
@given(world=worlds, patience=impatience, until=st.sampled_from([None, 0.25, 2.0]))
def test_1_every_request_has_exactly_one_end(lab, world, patience, until):
    """Every row of the trace that was sent, and every retry of it, ends once, in a state with a cause."""
    setup, table = build(lab, world, patience)
    outcome = lab.simulate(setup, table, "leap", until=until)
    c = {name: outcome.column(name) for name in ("index", "row", "attempt", "end", "generated", "output_tokens")}
    assert c["index"].tolist() == list(range(outcome.cluster.submitted))
    sent = np.flatnonzero(seconds(np.rint(table.arrival * 2**36)) < (inf if until is None else until))
    assert sorted(c["row"][c["attempt"] == 0].tolist()) == sent.tolist()
    attempts = defaultdict(list)
    for row, attempt, end in zip(c["row"].tolist(), c["attempt"].tolist(), c["end"].tolist(), strict=True):
        attempts[row].append((attempt, end))
    for of_row in attempts.values():
        assert [attempt for attempt, _ in of_row] == list(range(len(of_row)))
        assert len(of_row) <= 1 + setup.retries
        assert all(end == End.CANCELLED for _, end in of_row[:-1])  # only who was given up is sent again
    finished, unfinished = c["end"] == End.FINISHED, c["end"] == End.UNFINISHED
    assert np.all(c["generated"][finished] == c["output_tokens"][finished])
    hung_up = c["end"] == End.CANCELLED  # perhaps while the last token was on its way
    assert np.all((c["generated"] < c["output_tokens"]) | finished | hung_up)
    assert np.all(c["generated"][c["end"] == End.REJECTED] == 0)
    if until is None:
        assert not unfinished.any()
    else:
        assert np.all(seconds(outcome.column("ended")) <= until)
        assert np.all(outcome.column("ended")[unfinished] == round(until * lab.TICKS))


def test_1_every_end_state_occurs(lab):
    """So that the property above is not about finished requests only."""
    setup = lab.Setup(blocks=60, timeout=0.6, first_token_timeout=0.3, retries=1, max_model_len=400)
    outcome = lab.simulate(setup, lab.workload(150, 100.0, 150, 60, 1), "leap", until=1.2)
    ends = Counter(End(e).name for e in outcome.column("end").tolist())
    assert ends["FINISHED"] and ends["REJECTED"] and ends["CANCELLED"] and ends["UNFINISHED"]
    assert outcome.column("attempt").max() == 1


@pytest.mark.parametrize("name", ENGINES)
def test_1_a_prompt_that_can_never_fit_is_rejected_and_holds_up_nobody_for_ever(lab, name):
    """Too long for `max_model_len`, or for the memory left by a watermark, or for an uncut step: rejected, counted, and
    those behind it in the queue are served. The run ends by itself."""
    setup = lab.Setup(**ENGINES[name])
    setup.blocks, setup.max_model_len = 200, 200 * 16
    setup.max_num_batched_tokens = min(setup.max_num_batched_tokens, 2048)
    prompts = np.array([50, 3199, 60, 3200, 70, 9999, 80])
    table = RequestTable(np.arange(7) / 100, prompts, np.full(7, 5), priority=np.zeros(7, np.int64))
    outcome = lab.simulate(setup, table, "leap")
    ends = outcome.column("end").tolist()
    assert [ends[i] for i in (0, 2, 4, 6)] == [End.FINISHED] * 4
    assert ends[3] == ends[5] == End.REJECTED  # no room for a single token of output
    whole = name in ("v1 unchunked", "v0", "v0 swap", "static")  # 3199 tokens exceed a step of 2048 that may not be cut
    fits = not whole and not name.startswith("sarathi")  # its 200 blocks leave none for the watermark
    assert ends[1] == (End.FINISHED if fits else End.REJECTED)


def test_1_a_plan_whose_longest_request_cannot_fit_does_not_start():
    """A prompt that is admitted by its first chunk and outgrows all memory would be preempted for ever."""
    plan = plan_from(
        {
            "model": "mistral-7b",
            "engine": "vllm-0.19",
            "pools": [{"name": "p", "hardware": "a100-80gb", "num_gpu_blocks_override": 100, "max_model_len": 1601}],
        }
    )
    with pytest.raises(InputError, match="max_model_len"):
        run(RequestTable(np.zeros(1), np.array([10]), np.array([10])), plan)


def test_1_a_user_of_a_closed_loop_has_one_request_at_a_time_also_when_it_retries(lab):
    """`users` bounds the requests under way: who gave up and will try again has not gone on to the next row."""
    clients = {"timeout": 2.0, "retries": 3, "backoff": 0.5, "closed_loop": {"users": 8}}
    pool = {"name": "p", "hardware": "a100-80gb", "max_num_seqs": 4}
    plan = plan_from({"model": "mistral-7b", "engine": "vllm-0.19", "clients": clients, "pools": [pool]})
    c = run(lab.workload(200, 10.0, 800, 200, seed=0), plan).recorder.requests.columns()
    assert (c["attempt"] > 0).sum() > 20
    assert most_at_once(c["arrival"], c["ended"]) <= 8


def most_at_once(arrival, ended):
    change = np.concatenate([np.ones(len(arrival)), -np.ones(len(ended))])
    when = np.concatenate([arrival, ended])
    return np.cumsum(change[np.lexsort((change, when))]).max()


# -- 2 KV blocks are conserved -----------------------------------------------------------------------------------


@property_test
@given(world=worlds, patience=impatience)
def test_2_free_blocks_and_held_blocks_add_up_at_every_decision(lab, world, patience):
    """Whatever was admitted, preempted, swapped, cancelled or finished: the pool has what nobody holds. What a request
    holds is counted from its tokens, not from the engine's own books."""
    setup, table = build(lab, world, patience)
    reserve = {"v0": "prompt", "sa": "prompt", "or": "longest", "st": "longest"}.get(world["engine"][:2], "chunk")

    def held(request, limits):
        tokens = request.context()
        if reserve == "prompt":
            tokens = max(tokens, request.target)
        return limits.blocks(limits.max_model_len if reserve == "longest" else tokens)

    def count(view, step):
        if view.preempted:  # halfway through a decision
            return
        on_device = sum(held(r, view.limits) for r in view.ordered())
        assert view.free_blocks + on_device == view.total_blocks
        assert view.host.free + sum(r.blocks for r in view.swapped) == setup.host_blocks

    outcome = lab.simulate(setup, table, "leap", spy=count)
    for engine in outcome.engines:
        assert engine.rank.pool.free == setup.blocks and engine.rank.host.free == setup.host_blocks


def test_2_memory_is_never_overdrawn(lab):
    """The pool's low mark: tight memory is used to the last block and not beyond."""
    outcome = lab.simulate(lab.Setup(blocks=70), lab.workload(120, 90.0, 120, 60, 1), "leap")
    assert outcome.engines[0].rank.pool.low == 0
    assert outcome.column("preemptions").sum() > 10


# -- 3 a request's times are in order ----------------------------------------------------------------------------


@property_test
@given(world=worlds, patience=impatience)
def test_3_times_are_in_order_and_their_parts_add_up(lab, world, patience):
    """arrival <= queued <= scheduled <= first token <= last token <= ended for whoever got so far, and the components
    of a request's time sum to the whole, however it ended."""
    setup, table = build(lab, world, patience)
    outcome = lab.simulate(setup, table, "leap")
    for row in np.stack([outcome.column(name) for name in TIMES], axis=1).tolist():
        came = [t for t in row if t >= 0]
        assert came == sorted(came)
        assert row[0] >= 0 and row[-1] >= 0
    finished = outcome.column("end") == End.FINISHED
    assert all(np.all(outcome.column(name)[finished] >= 0) for name in TIMES)
    total = sum(outcome.column(name) for name in COMPONENTS)
    np.testing.assert_array_equal(total, outcome.column("ended") - outcome.column("arrival"))
    assert all(np.all(outcome.column(name) >= 0) for name in COMPONENTS)


# -- 4 the clock never goes back ---------------------------------------------------------------------------------


@property_test
@given(world=worlds)
def test_4_iterations_follow_one_another_and_every_time_of_a_request_is_the_edge_of_one(lab, world):
    setup, table = build(lab, world)
    outcome = lab.simulate(setup, table, "leap")
    for replica, iterations in enumerate(outcome.iterations):
        starts = [start for start, *_ in iterations]
        ends = [start + ticks for start, ticks, *_ in iterations]
        assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))
        served = (outcome.column("replica") == replica) & (outcome.column("end") == End.FINISHED)
        assert set(outcome.column("scheduled")[served].tolist()) <= set(starts)
        for name in ("first_token", "last_token", "ended"):
            assert set(outcome.column(name)[served].tolist()) <= set(ends)


@pytest.mark.parametrize("engine", ["leap", "step", "oracle"])
def test_4_at_equal_ticks_arrivals_come_first(lab, engine):
    """Who arrives on the very tick at which an iteration ends is in the next one, not in the one after that."""
    tick = 2**26  # an iteration; 2**-10 s, so that arrivals in seconds hit it exactly
    arrival = np.array([0.0, 3.0, 3.5, 20.0]) * 2.0**-10
    table = RequestTable(arrival, np.full(4, 10), np.array([30, 5, 5, 5]))
    outcome = lab.simulate(lab.Setup(), table, engine, cost=lab.EvenCost(tick))
    assert (outcome.column("scheduled") / tick).tolist() == [0, 3, 4, 20]
    np.testing.assert_array_equal(outcome.column("queued"), outcome.column("scheduled"))


# -- 5 no rank idles while its own policy would admit ------------------------------------------------------------


def union(starts, ends):
    """The union of intervals as a list of disjoint ones; those of no length do not count."""
    merged = []
    for start, end in sorted(zip(starts, ends, strict=True)):
        if start == end:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    return merged


@property_test
@given(world=worlds, patience=impatience, stages=st.integers(1, 2))
def test_5_an_engine_is_busy_exactly_while_somebody_is_there(lab, world, patience, stages):
    """Every policy here admits somebody when nobody runs, so the busy periods in the log of iterations are the periods
    in which a request is between arrival and end. Read from two books that are written apart."""
    setup, table = build(lab, world, patience)
    if stages > 1:
        setup.stages, setup.blocks = stages, 5000
    outcome = lab.simulate(setup, table, "leap")
    for replica, iterations in enumerate(outcome.iterations):
        mine = outcome.column("replica") == replica
        present = union(outcome.column("arrival")[mine].tolist(), outcome.column("ended")[mine].tolist())
        assert present == union([s for s, *_ in iterations], [s + ticks for s, ticks, *_ in iterations])


@property_test
@given(
    engine=st.sampled_from(["v1", "v1 in few tokens", "sarathi", "orca"]),
    seqs=st.integers(1, 12),
    rate=st.sampled_from([20.0, 60.0, 400.0]),
    prompt=st.integers(1, 250),
    output=st.integers(1, 60),
    seed=st.integers(0, 10**6),
)
def test_5_an_iteration_that_leaves_somebody_waiting_is_full(lab, engine, seqs, rate, prompt, output, seed):
    """With memory for all, only two things keep a request out: no seat, or no tokens left in the budget. Replayed from
    the rows (who waited, who sat) and the log (what each iteration computed)."""
    setup = lab.Setup(**ENGINES[engine])
    setup.blocks, setup.max_num_seqs = 5000, seqs
    outcome = lab.simulate(setup, lab.workload(60, rate, prompt, output, seed), "leap")
    assert np.all(outcome.column("preemptions") == 0)
    served = outcome.column("end") == End.FINISHED
    queued, scheduled, ended = (outcome.column(name)[served] for name in ("queued", "scheduled", "ended"))
    for start, _, decodes, tokens in outcome.iterations[0]:
        if np.any((queued <= start) & (start < scheduled)):
            seated = int(np.sum((scheduled <= start) & (start < ended)))
            full = engine != "orca" and decodes + tokens >= setup.max_num_batched_tokens
            assert seated == seqs or full


# -- 10 tokens credited = tokens asked ---------------------------------------------------------------------------


@property_test
@given(world=worlds, patience=impatience, stages=st.integers(1, 2))
def test_10_tokens_in_the_rows_are_tokens_in_the_log(lab, world, patience, stages):
    """Who finished got what was asked, cut at `max_model_len`. And every token but a request's first follows another
    of the same request: as many gaps in the log of iterations as such tokens in the rows, through preemptions."""
    setup, table = build(lab, world, patience)
    if stages > 1:
        setup.stages, setup.blocks = stages, 5000
    outcome = lab.simulate(setup, table, "leap")
    generated, finished = outcome.column("generated"), outcome.column("end") == End.FINISHED
    row = outcome.column("row")[finished]
    asked = np.minimum(table.output_tokens[row], setup.max_model_len - table.prompt_tokens[row])
    np.testing.assert_array_equal(generated[finished], asked)
    assert outcome.gaps.count == np.maximum(generated - 1, 0).sum()


@property_test
@given(world=worlds, stages=st.integers(1, 2))
def test_10_prompts_are_computed_once_where_nobody_is_preempted(lab, world, stages):
    """Prompt tokens in the log = prompt tokens of the rows; decode tokens = all but the first of each answer."""
    setup, table = build(lab, world)
    setup.blocks, setup.stages = 5000, stages
    outcome = lab.simulate(setup, table, "leap")
    served = outcome.column("end") == End.FINISHED
    log = [iteration for engine in outcome.iterations for iteration in engine]
    assert sum(tokens for *_, tokens in log) == outcome.column("prompt_tokens")[served].sum()
    assert sum(decodes for _, _, decodes, _ in log) == (outcome.column("generated")[served] - 1).sum()


# -- 11 bytes over a link = bytes accounted ----------------------------------------------------------------------


@pytest.mark.parametrize(("patience", "host_blocks"), [(inf, 1000), (inf, 30), (2.0, 1000)])
def test_11_blocks_swapped_out_come_back_or_are_dropped(lab, patience, host_blocks):
    """Only swapping moves bytes today. The log says how long blocks were on the link (every iteration of `EvenCost` is
    as long as any other, and each block adds 999 ticks); the views say who left and who came back, the rows who never
    did: those whose clients hung up while their blocks were on the host."""
    setup = lab.Setup(**ENGINES["v0 swap"])
    setup.blocks, setup.host_blocks, setup.max_num_seqs = 70, host_blocks, 24
    setup.cancel_after = Stream(2, "patience").exponential(150) * patience
    out, back, away = Counter(), Counter(), {}

    def watch(view, step):
        for request in view.swapped:
            if request not in away:
                away[request] = request.blocks
                out[request.index] += request.blocks
        if not view.preempted:  # else the step is composed once more
            for request in step.resume:
                back[request.index] += away.pop(request)

    cost = lab.EvenCost(lab.TICKS // 256)
    outcome = lab.simulate(setup, lab.workload(150, 120.0, 60, 90, 1), "leap", cost=cost, spy=watch)
    on_the_link, rest = divmod(sum(ticks - cost.ticks for _, ticks, *_ in outcome.iterations[0]), 999)
    assert rest == 0
    assert on_the_link == out.total() + back.total() > 100
    hung_up = set(outcome.column("index")[outcome.column("end") != End.FINISHED].tolist())
    dropped = sum(out[i] - back[i] for i in hung_up)
    assert out.total() == back.total() + dropped
    assert (dropped > 0) == (patience < inf)
    assert outcome.engines[0].rank.host.free == host_blocks


# -- 12 between two preemptions of a request some other one progresses -------------------------------------------


def progress_between_preemptions(lab, setup, table, engine="leap"):
    """Watch a run; for each preemption after a request's first, who progressed since the one before: others, itself."""
    state, preempted, moves, found = {}, {}, [], []  # moves: who computed tokens, in order of decisions

    def watch(view, step):
        here = [*view.ordered(), *view.waiting, *view.swapped]
        for request in here:
            now = (request.tokens(), request.context())
            before = state.get(request)
            if before is not None and now != before and request.preemptions == preempted.get(request, 0):
                moves.append(request)
            state[request] = now
        for request in [r for r in state if r not in here]:  # it has ended, with a last token
            moves.append(request)
            del state[request]
        for request in here:
            if request.preemptions != preempted.get(request, 0):
                if preempted.get(request):
                    since = moves[request.mark :] if hasattr(request, "mark") else moves
                    found.append((any(r is not request for r in since), any(r is request for r in since)))
                preempted[request] = request.preemptions
                request.mark = len(moves)

    lab.simulate(setup, table, engine, spy=watch)
    return found


@property_test
@given(world=worlds)
def test_12_between_two_preemptions_of_a_request_another_progresses(lab, world):
    setup, table = build(lab, world)
    setup.blocks = max(40, min(setup.blocks, 120))
    if world["engine"] in ("orca", "static"):
        return
    setup.blocks = max(setup.blocks, 100 if world["engine"].startswith(("v0", "sarathi")) else 0)  # see below
    found = progress_between_preemptions(lab, setup, table)
    assert all(others for others, _ in found)


def test_12_the_cases_above_do_preempt_again(lab):
    tight = lab.Setup(blocks=50, max_model_len=800)
    assert len(progress_between_preemptions(lab, tight, lab.workload(60, 400.0, 90, 60, 1))) > 5


def test_12_alone_under_the_v0_rule_a_request_makes_way_for_nobody_and_still_progresses(lab):
    """vLLM v0 asks for a free block before each decode even where none is taken. A request that fills the memory by
    itself (below 100 blocks the watermark rounds to none) is then preempted after every token, though nobody else is
    there. It is the one exception to the invariant; each recomputation yields a token, so it ends."""
    setup = lab.Setup(**ENGINES["v0"])
    setup.blocks, setup.max_model_len = 2, 32
    table = RequestTable(np.zeros(1), np.array([20]), np.array([8]))
    found = progress_between_preemptions(lab, setup, table)
    assert len(found) == 6  # 8 tokens by 8 prefills: 7 preemptions
    assert not any(others for others, _ in found) and all(itself for _, itself in found)


@pytest.mark.parametrize("engine", ["leap", "oracle"])
def test_12_in_a_pipeline_two_requests_do_not_evict_themselves_in_turns(lab, engine):
    """Prompts of 4 and 3 tokens, six blocks of one token, three tokens a step, two stages: one of them always is in
    flight when the other cannot grow. The older one must get the blocks of the newer, or neither ever ends."""
    setup = lab.Setup(blocks=6, block_size=1, max_model_len=6, stages=2, max_num_batched_tokens=3, max_num_seqs=3)
    table = RequestTable(np.zeros(2), np.array([4, 3]), np.array([1, 2]))
    outcome = lab.simulate(setup, table, engine, until=60.0)  # a few iterations of some 10 ms would do
    assert (outcome.column("end") == End.FINISHED).all()
