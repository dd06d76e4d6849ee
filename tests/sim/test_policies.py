"""The policies as pure functions: every rule of the schedulers that they are named after, on views made by hand.

The fakes below have the names of `core.RankView` and of the part of `core.Request` that a policy may look at, and no
others: a policy that reaches for anything else fails here.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, field
from types import SimpleNamespace

import pytest

from servecast.sim.core import FOREVER, Limits, RankView, Request
from servecast.sim.policies.registry import BUILT_IN, make_policy


@dataclass(slots=True, eq=False)
class FakeRequest:
    """What a policy may know of a request."""

    name: str
    prompt_tokens: int = 32
    computed: int = 0
    generated: int = 0
    target: int = 0
    blocks: int = 0
    order: int = 0
    index: int = 0
    arrival: int = 0
    priority: int = 0
    estimate: float = 0.0

    def tokens(self):
        return self.generated

    def context(self):
        return self.computed

    def __repr__(self):
        return self.name


@dataclass(slots=True)
class FakeView:
    """What a policy may know of an engine: 16-token blocks, 100 of them, unless said otherwise."""

    limits: Limits
    decoding: list = field(default_factory=list)
    prefills: list = field(default_factory=list)
    waiting: list = field(default_factory=list)
    swapped: list = field(default_factory=list)
    free_blocks: int = 100
    total_blocks: int = 100
    decode_demand: int = 0
    preempted: int = 0
    fifo: bool = True
    now: int = 0
    steps: int = 0
    in_flight: int = 0  # running requests that are in a batch under way
    caching: bool = False  # prefix caching, which has tests of its own
    path: object = staticmethod(lambda request: ())  # no prefix is found

    @property
    def decodes(self):
        return len(self.decoding)

    @property
    def running(self):
        return len(self.decoding) + len(self.prefills) + self.in_flight

    def ordered(self):
        return sorted(self.decoding + self.prefills, key=lambda r: r.order)

    def ranked(self, requests):
        return sorted(requests, key=lambda r: (r.arrival, r.index))

    def lookup(self, request, promised, taken=0):
        return 0, 0

    def promise(self, request, tokens, promised):
        pass


def limits(max_num_seqs=8, budget=64, max_model_len=1024, **more):
    return Limits(max_num_seqs, budget, max_model_len, **more)


def decode(name, context=32, order=0, **more):
    """A request whose prompt is complete."""
    return FakeRequest(name, context, context, 1, context, -(-context // 16), order, **more)


def prefill(name, prompt, done, order=0, **more):
    """A request that has `done` tokens of its prompt in the cache."""
    return FakeRequest(name, prompt, done, 0, prompt, -(-done // 16), order, **more)


def waiting(name, prompt, index=0, **more):
    return FakeRequest(name, prompt, target=prompt, index=index, arrival=index, **more)


def decodes(n):
    return [decode(f"d{i}", order=i) for i in range(n)]


def names(parts):  # chunks or admissions by request name: {name: tokens}
    return {part[0].name: part[1] for part in parts}


TICK_A_TOKEN = SimpleNamespace(
    stages=[SimpleNamespace(piece=lambda chunks, decodes, *_: (decodes + sum(n for n, _ in chunks),))], host=lambda n: 0
)


def make(batch, parameters):
    policy = make_policy("batch", batch, parameters)
    if hasattr(policy, "learn"):
        policy.learn(TICK_A_TOKEN)
    return policy


def compose(batch, view, **parameters):
    return make(batch, parameters).compose(view)


# -- vLLM v1 (schedulers.md 1.3) ---------------------------------------------------------------------------------


def test_v1_running_requests_take_the_budget_first_and_the_queue_gets_the_rest():
    """Budget 64: 4 decodes take 4, the prompt under way takes the 20 it lacks, the queue's head gets 40 of its 100."""
    view = FakeView(limits(), decodes(4), [prefill("p", 52, 32, 9)], [waiting("a", 100), waiting("b", 10)])
    step = compose("vllm_v1", view)
    assert (step.decodes, names(step.chunks), names(step.admit)) == (4, {"p": 20}, {"a": 40})


def test_v1_the_queue_is_admitted_in_order_while_budget_lasts_and_the_last_one_is_cut():
    view = FakeView(limits(), waiting=[waiting("a", 30), waiting("b", 30), waiting("c", 30), waiting("d", 30)])
    assert names(compose("vllm_v1", view).admit) == {"a": 30, "b": 30, "c": 4}


def test_v1_an_admitted_request_gets_the_blocks_of_its_first_chunk_only():
    view = FakeView(limits(), waiting=[waiting("a", 1000)])
    ((_, tokens, blocks),) = compose("vllm_v1", view).admit
    assert (tokens, blocks) == (64, 4)


def test_v1_long_prefill_token_threshold_cuts_running_and_waiting_prompts_alike():
    """With a threshold of 16 nobody gets more, so that several long prompts share an iteration."""
    long = limits(long_prefill_token_threshold=16)
    view = FakeView(long, prefills=[prefill("p", 500, 16)], waiting=[waiting("a", 500), waiting("b", 10)])
    step = compose("vllm_v1", view)
    assert (names(step.chunks), names(step.admit)) == ({"p": 16}, {"a": 16, "b": 10})


def test_v1_running_requests_are_served_in_list_order_whether_they_prefill_or_decode():
    """Budget 20, threshold 16: the decode before the two prompts runs, the one behind them finds nothing left."""
    first, last = decode("first", order=0), decode("last", order=3)
    long = limits(budget=20, long_prefill_token_threshold=16)
    view = FakeView(long, [first, last], [prefill("p", 500, 16, 1), prefill("q", 500, 16, 2)])
    step = compose("vllm_v1", view)
    assert (step.decodes, names(step.chunks)) == (1, {"p": 16, "q": 3})


def test_v1_decodes_beyond_the_budget_wait_for_a_later_iteration():
    view = FakeView(limits(max_num_seqs=99, budget=5), decodes(7), waiting=[waiting("a", 10)])
    step = compose("vllm_v1", view)
    assert (step.decodes, list(step.admit)) == (5, [])


def test_v1_head_of_line_the_first_that_does_not_fit_ends_admission():
    """Five blocks are free: the head wants seven, so the small one behind it, which would fit, is not let past."""
    view = FakeView(limits(budget=512), waiting=[waiting("big", 100), waiting("small", 10)], free_blocks=5)
    assert compose("vllm_v1", view).empty()


def test_v1_blocks_that_running_requests_are_about_to_take_are_not_free():
    """Of 5 free blocks the decodes' growth takes 2 and the running prompt's chunk 2; the head needs 2 and finds 1."""
    view = FakeView(limits(), decodes(2), [prefill("p", 64, 32, 9)], [waiting("a", 20)], free_blocks=5, decode_demand=2)
    assert not compose("vllm_v1", view).admit
    view.free_blocks = 6
    assert names(compose("vllm_v1", view).admit) == {"a": 20}


def test_v1_nobody_is_admitted_in_a_step_that_had_to_preempt():
    view = FakeView(limits(), decodes(1), waiting=[waiting("a", 10)], preempted=1)
    assert not compose("vllm_v1", view).admit


@pytest.mark.parametrize(("running", "admitted"), [(2, {"a": 10}), (3, {})])
def test_v1_max_num_seqs_bounds_the_running_list(running, admitted):
    view = FakeView(limits(max_num_seqs=3), decodes(running), waiting=[waiting("a", 10), waiting("b", 10)])
    assert names(compose("vllm_v1", view).admit) == admitted


def test_v1_without_chunked_prefill_a_prompt_beyond_the_budget_stops_the_queue():
    """It is not cut, and whoever is behind it is not let past, even if it would fit."""
    whole = limits(enable_chunked_prefill=False)
    view = FakeView(whole, waiting=[waiting("a", 40), waiting("b", 30), waiting("c", 5)])
    assert names(compose("vllm_v1", view).admit) == {"a": 40}


def test_v1_without_chunked_prefill_a_prompt_waits_until_the_decodes_leave_room_for_all_of_it():
    """63 tokens do not go beside 2 decodes into a budget of 64: not cut, so not admitted."""
    view = FakeView(limits(enable_chunked_prefill=False), decodes(2), waiting=[waiting("a", 63)])
    assert not compose("vllm_v1", view).admit
    view.decoding.pop()
    assert names(compose("vllm_v1", view).admit) == {"a": 63}


def test_v1_a_preempted_request_computes_its_prompt_and_its_answer_so_far():
    victim = FakeRequest("v", 30, generated=20, target=50)
    assert names(compose("vllm_v1", FakeView(limits(), waiting=[victim])).admit) == {"v": 50}


def test_v1_watermark_holds_only_where_something_is_already_scheduled():
    """10 of 100 blocks are to stay free. Alone, a prompt of 10 blocks may take the last ten; beside a decode not."""
    head = [waiting("a", 160)]
    assert compose("vllm_v1", FakeView(limits(budget=512), [], [], head, free_blocks=10), watermark=0.1).admit
    beside = FakeView(limits(budget=512), decodes(1), [], head, free_blocks=19)
    assert not compose("vllm_v1", beside, watermark=0.1).admit
    beside.free_blocks = 20
    assert compose("vllm_v1", beside, watermark=0.1).admit


def test_v1_full_sequence_must_fit_asks_for_the_whole_prompt_but_takes_the_first_chunk():
    """Older versions admit on the first chunk and so over-admit."""
    view = FakeView(limits(), waiting=[waiting("a", 320)], free_blocks=19)
    assert names(compose("vllm_v1", view).admit) == {"a": 64}
    strict = make_policy("batch", "vllm_v1", {})
    strict.kv = make_policy("kv", "recompute", {"full_sequence_must_fit": True})
    assert strict.compose(view).empty()
    view.free_blocks = 20
    ((_, tokens, blocks),) = strict.compose(view).admit
    assert (tokens, blocks) == (64, 4)


# -- vLLM v0 (1.2) -----------------------------------------------------------------------------------------------


def test_v0_prompts_come_first_and_run_alone_and_whole():
    """If anybody can be admitted, the step is theirs and all decodes stall."""
    view = FakeView(limits(), decodes(4), waiting=[waiting("a", 30), waiting("b", 34), waiting("c", 1)])
    step = compose("vllm_v0", view)
    assert (step.decodes, names(step.admit)) == (0, {"a": 30, "b": 34})  # 64 tokens: the budget is used up


def test_v0_a_prompt_is_never_cut_and_nobody_overtakes_it():
    view = FakeView(limits(), decodes(1), waiting=[waiting("a", 60), waiting("b", 5), waiting("c", 4)])
    assert names(compose("vllm_v0", view).admit) == {"a": 60}


def test_v0_without_admissions_all_decodes_run():
    assert compose("vllm_v0", FakeView(limits(), decodes(4))).decodes == 4


@pytest.mark.parametrize(("free", "admits"), [(12, True), (11, False)])
def test_v0_watermark_keeps_one_percent_free_after_an_admission(free, admits):
    """free - need >= watermark: 2 of 200 blocks stay free beside the 10 that the prompt takes."""
    view = FakeView(limits(budget=512), waiting=[waiting("a", 160)], free_blocks=free, total_blocks=200)
    assert bool(compose("vllm_v0", view).admit) is admits


def test_v0_nobody_is_admitted_while_anybody_is_swapped_out():
    out = decode("out")
    view = FakeView(limits(), decodes(1), waiting=[waiting("a", 5)], swapped=[out])
    step = compose("vllm_v0", view)
    assert not step.admit and list(step.resume) == [out] and step.decodes == 2


def test_v0_swapped_requests_come_back_first_come_first_served_within_memory_and_seats():
    """Each needs its blocks and one to go on; the first that does not fit keeps the others out."""
    big, small = decode("big", 160), decode("small", 16)
    view = FakeView(limits(), decodes(1), swapped=[big, small], free_blocks=11)
    assert not compose("vllm_v0", view).resume  # 10 + 1 and the watermark of 1
    view.free_blocks = 12
    assert list(compose("vllm_v0", view).resume) == [big]
    view.free_blocks = 100
    assert list(compose("vllm_v0", view).resume) == [big, small]
    view.limits = limits(max_num_seqs=2)
    assert list(compose("vllm_v0", view).resume) == [big]


def test_v0_a_step_that_had_to_preempt_neither_admits_nor_swaps_in():
    view = FakeView(limits(), decodes(2), waiting=[waiting("a", 5)], preempted=1)
    assert not compose("vllm_v0", view).admit
    view = FakeView(limits(), decodes(2), swapped=[decode("out")], preempted=1)
    assert not compose("vllm_v0", view).resume


def test_v0_max_num_seqs():
    view = FakeView(limits(max_num_seqs=3), decodes(2), waiting=[waiting("a", 5), waiting("b", 5)])
    assert names(compose("vllm_v0", view).admit) == {"a": 5}


def test_v0_whole_prompts_get_all_their_blocks_at_once():
    ((_, tokens, blocks),) = compose("vllm_v0", FakeView(limits(), waiting=[waiting("a", 50)])).admit
    assert (tokens, blocks) == (50, 4)


# -- Sarathi-Serve (2) -------------------------------------------------------------------------------------------


def test_sarathi_decodes_then_prompts_under_way_then_new_ones_within_the_chunk_size():
    """tau = 64: 4 decodes, the 20 tokens that the running prompt lacks, and 40 of a new one."""
    view = FakeView(limits(), decodes(4), [prefill("p", 52, 32, 9)], [waiting("a", 100), waiting("b", 10)])
    step = compose("sarathi", view)
    assert (step.decodes, names(step.chunks), names(step.admit)) == (4, {"p": 20}, {"a": 40})


def test_sarathi_reserves_the_whole_prompt_at_admission():
    """So that a chunk never fails for memory: 7 blocks for 100 tokens, of which the first chunk needs 4; 1 % stays."""
    view = FakeView(limits(), waiting=[waiting("a", 100)], free_blocks=7)
    assert compose("sarathi", view).empty()
    view.free_blocks = 8
    ((_, tokens, blocks),) = compose("sarathi", view).admit
    assert (tokens, blocks) == (64, 7)


def test_sarathi_prompts_under_way_share_the_budget_first_come_first_served():
    view = FakeView(limits(), decodes(4), [prefill("p", 82, 32, 1), prefill("q", 82, 32, 2)])
    assert names(compose("sarathi", view).chunks) == {"p": 50, "q": 10}


def test_sarathi_decodes_run_even_where_they_fill_the_budget():
    """Stall-free: the budget bounds prompts, never decodes."""
    view = FakeView(limits(max_num_seqs=99, budget=4), decodes(6), [prefill("p", 82, 32, 9)], [waiting("a", 10)])
    step = compose("sarathi", view)
    assert (step.decodes, list(step.chunks), list(step.admit)) == (6, [], [])


def test_sarathi_batch_size():
    view = FakeView(limits(max_num_seqs=2), decodes(1), waiting=[waiting("a", 5), waiting("b", 5)])
    assert names(compose("sarathi", view).admit) == {"a": 5}


def test_sarathi_hybrid_only_runs_whole_prompts_beside_decodes():
    """The ablation: a chunk size of `max_model_len` cuts no prompt, so whoever decodes beside it waits for all."""
    view = FakeView(limits(budget=1024), decodes(2), waiting=[waiting("a", 1000)])
    step = compose("sarathi", view)
    assert (step.decodes, names(step.admit)) == (2, {"a": 1000})


def test_sarathi_chunked_prefills_only_alternates_and_never_mixes():
    """The other ablation: a step of at most tau prompt tokens, then a step of all decodes, in strict turns."""
    policy = make_policy("batch", "sarathi", {"batching": "chunked_prefills_only"})
    view = FakeView(limits(), decodes(2), waiting=[waiting("a", 100)])
    chunk = policy.compose(view)
    assert (chunk.decodes, names(chunk.admit)) == (0, {"a": 64})  # decodes do not count against tau: they are not there
    policy.observe(chunk)
    under_way = FakeView(limits(), decodes(2), [prefill("a", 100, 64, 9)])
    turn = policy.compose(under_way)
    assert (turn.decodes, list(turn.chunks)) == (2, [])
    policy.observe(turn)
    rest = policy.compose(under_way)
    assert (rest.decodes, names(rest.chunks)) == (0, {"a": 36})


def test_sarathi_chunked_prefills_only_keeps_the_decodes_turn_for_which_it_has_just_preempted():
    """Else the victim would take back its blocks at once, to be evicted again in the next step."""
    view = FakeView(limits(), decodes(2), waiting=[waiting("victim", 20)], preempted=1)
    step = compose("sarathi", view, batching="chunked_prefills_only")
    assert (step.decodes, list(step.admit)) == (2, [])


# -- Orca (1.1) --------------------------------------------------------------------------------------------------


def test_orca_mixes_all_decodes_with_whole_prompts_and_knows_no_token_budget():
    view = FakeView(limits(budget=8), decodes(2), waiting=[waiting("a", 300), waiting("b", 400)], free_blocks=200)
    step = compose("orca", view)
    assert (step.decodes, names(step.admit)) == (2, {"a": 300, "b": 400})


def test_orca_reserves_max_model_len_for_everyone():
    """ceil(1000 / 16) = 63 blocks each, whatever the prompt; 189 hold three, 188 two, and there is no watermark."""
    queue = [waiting(n, 5) for n in "abcd"]
    three = FakeView(limits(max_model_len=1000), waiting=queue, free_blocks=189, total_blocks=1000)
    assert [blocks for *_, blocks in compose("orca", three).admit] == [63, 63, 63]
    three.free_blocks = 188
    assert len(compose("orca", three).admit) == 2


def test_orca_batch_size():
    view = FakeView(limits(max_num_seqs=2), decodes(1), waiting=[waiting("a", 5), waiting("b", 5)])
    assert names(compose("orca", view).admit) == {"a": 5}


def test_orca_never_needs_to_preempt():
    """What a request holds from the start does not grow."""
    assert not make_policy("batch", "orca", {}).kv.grows


# -- static batching ---------------------------------------------------------------------------------------------


def test_static_batches_start_together_and_admit_nobody_until_all_are_done():
    policy = make_policy("batch", "static", {})
    queue = [waiting(n, 10) for n in "abcd"]
    view = FakeView(limits(max_num_seqs=3, max_model_len=256), waiting=queue)
    first = policy.compose(view)
    assert names(first.admit) == {"a": 10, "b": 10, "c": 10}
    policy.observe(first)
    alone = FakeView(view.limits, decodes(1), waiting=[queue[3]])
    assert not policy.compose(alone).admit


def test_static_slots_of_the_early_finished_go_on_costing():
    policy = make_policy("batch", "static", {})
    queue = [waiting(n, 10) for n in "abc"]
    policy.observe(policy.compose(FakeView(limits(max_num_seqs=3, max_model_len=256), waiting=queue)))
    step = policy.compose(FakeView(limits(max_num_seqs=3), decodes(1)))
    assert (step.decodes, step.ghosts) == (1, 2)


# -- all batch policies ------------------------------------------------------------------------------------------

BATCH = [*((name, {}) for name in BUILT_IN["batch"]), ("sarathi", {"batching": "chunked_prefills_only"})]


def views():
    """Situations of every kind: idle, busy, short of memory, just preempted, swapped out."""
    queue = [waiting("a", 100, 7), waiting("b", 20, 8), waiting("c", 3, 9)]
    for free in (0, 3, 30, 100):
        for preempted in (0, 1):
            for bound in (limits(), limits(max_num_seqs=2), limits(budget=8, long_prefill_token_threshold=4)):
                yield FakeView(bound, free_blocks=free, preempted=preempted, waiting=queue)
                yield FakeView(bound, decodes(3), free_blocks=free, preempted=preempted, waiting=queue, decode_demand=1)
                yield FakeView(bound, decodes(2), [prefill("p", 90, 32, 5)], free_blocks=free, preempted=preempted)
                yield FakeView(bound, decodes(1), swapped=[decode("out")], free_blocks=free, preempted=preempted)


@pytest.mark.parametrize(("name", "parameters"), BATCH)
def test_compose_is_pure(name, parameters):
    """The same view gives the same step, and looking changes neither the view nor the requests."""
    policy = make(name, parameters)
    for view in views():
        before = snapshot(view)
        assert repr(policy.compose(view)) == repr(policy.compose(view))
        assert snapshot(view) == before


def snapshot(view):
    return [[astuple(r) for r in group] for group in (view.decoding, view.prefills, view.waiting, view.swapped)]


@pytest.mark.parametrize(("name", "parameters"), BATCH)
def test_no_policy_asks_for_more_than_there_is(name, parameters):
    """Slots and blocks are the engine's to keep, but a policy must not promise what is not there."""
    policy = make(name, parameters)
    for view in views():
        step = policy.compose(view)
        assert step.decodes <= view.decodes + len(step.resume)
        assert sum(blocks for *_, blocks in step.admit) <= view.free_blocks
        if step.admit or step.resume:
            assert view.running + len(step.admit) + len(step.resume) <= view.limits.max_num_seqs
        tokens = sum(n for _, n, *_ in [*step.chunks, *step.admit])
        assert all(n > 0 for _, n, *_ in [*step.chunks, *step.admit])
        if name not in ("orca", "splitwise"):  # whose first prompt may be longer
            assert tokens <= view.limits.max_num_batched_tokens


@pytest.mark.parametrize(("name", "parameters"), BATCH)
def test_a_promise_of_many_iterations_holds(name, parameters):
    """`Step.iterations` says how often the same would be decided. Walk it by hand: each prompt part moves on by its
    tokens, blocks are plenty, and the policy must compose the same work each time."""
    policy = make(name, parameters)
    for view in views():
        view.free_blocks = view.total_blocks = 10_000
        view.preempted = 0
        step = policy.compose(view)
        if step.empty() or step.admit or step.resume:
            assert step.empty() or step.iterations == 1
            continue
        getattr(policy, "observe", id)(step)
        for _ in range(min(step.iterations, 20) - 1):
            for request, tokens in step.chunks:
                request.computed += tokens
            assert policy.compose(view).same_work(step)


def test_with_nothing_to_change_the_promise_is_for_ever():
    for name, parameters in BATCH:
        assert compose(name, FakeView(limits(), decodes(3)), **parameters).iterations == FOREVER


@pytest.mark.parametrize("name", ["vllm_v1", "sarathi"])
def test_a_prompt_in_chunks_is_promised_until_its_last_full_chunk(name):
    """4 decodes leave 60 a step: 32 + 60 + 60 + 48 = 200, so two steps are alike and the third is not."""
    view = FakeView(limits(), decodes(4), [prefill("p", 200, 32, 9)])
    assert compose(name, view).iterations == 2


def test_the_fake_view_is_the_protocol():
    """So the tests above are proof that no policy looks further than `core.RankView`."""
    protocol = {name for name in vars(RankView) if not name.startswith("_")}
    ours = {name for name in dir(FakeView) if not name.startswith("_")}
    assert ours - protocol == {"decoding", "in_flight"}  # of which the other names are made here
    assert protocol <= ours
    assert set(FakeRequest.__slots__) - {"name"} <= set(dir(Request(0, 0, 0, 1)))
