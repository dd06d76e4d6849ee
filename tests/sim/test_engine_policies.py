"""SGLang's and TensorRT-LLM's rules, as their documentation and sources give them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from servecast.configs.catalog import names
from servecast.configs.engine import find_engine
from servecast.errors import InputError
from servecast.sim.policies.no_evict import NoEvict
from servecast.sim.policies.registry import make_policy
from servecast.sim.policies.sglang_retract import SglangRetract
from servecast.traces.columns import PrefixBlocks
from servecast.traces.table import RequestTable


def at_once(prompts, answers, gap=1e-6):
    """Requests that arrive one right after the other."""
    return RequestTable(np.arange(len(prompts)) * gap, np.array(prompts), np.array(answers))


def first_tokens(outcome):
    return outcome.column("first_token")


def test_sglang_runs_prompts_before_decodes(lab):
    """A prompt that arrives while others decode stalls them: nobody gets a token while it runs."""
    table = RequestTable(np.array([0.0, 0.05]), np.array([64, 2000]), np.array([400, 2]))
    setup = lab.Setup(batch="sglang", max_num_batched_tokens=256, blocks=400)
    outcome = lab.simulate(setup, table, "step")
    joined, alone = (outcome.column(c)[1] for c in ("first_token", "scheduled"))
    during = [end for end in np.sort(outcome.column("last_token")) if alone < end < joined]
    assert not during
    mixed = lab.simulate(lab.Setup(batch="sglang", batch_parameters={"mixed_chunk": True}, max_num_batched_tokens=256,
                                   blocks=400), table, "step")  # fmt: skip
    assert mixed.column("last_token")[0] < outcome.column("last_token")[0]  # its decodes went on beside the prompt
    assert mixed.column("first_token")[1] > outcome.column("first_token")[1]  # and took their part of the budget


def test_sglang_batches_prompts_up_to_its_budget(lab):
    """Four prompts of 100 in a budget of 256, cut: 100 + 100 + 56, then 44 + 100; uncut: two and two."""
    table = at_once([10, 100, 100, 100, 100], [30, 2, 2, 2, 2])  # the first keeps the engine busy while the rest arrive
    cut = lab.simulate(lab.Setup(batch="sglang", max_num_batched_tokens=256), table, "step")
    assert len(set(first_tokens(cut)[1:].tolist())) == 2
    assert first_tokens(cut)[1] == first_tokens(cut)[2] < first_tokens(cut)[3] == first_tokens(cut)[4]
    whole = lab.Setup(batch="sglang", enable_chunked_prefill=False, max_num_batched_tokens=256, max_model_len=256)
    uncut = lab.simulate(whole, table, "step")
    assert first_tokens(uncut)[1] == first_tokens(uncut)[2] < first_tokens(uncut)[3] == first_tokens(uncut)[4]


def test_sglang_retracts_who_has_generated_least(lab):
    """Two that fill the memory: the one that came later is retracted, generates again, and both finish."""
    kv = {"kv": "sglang_retract", "kv_parameters": {"max_new_tokens": 1, "new_token_ratio": 0.0}}
    table = at_once([64, 64], [200, 200], gap=0.01)
    outcome = lab.simulate(lab.Setup(batch="sglang", blocks=20, max_model_len=320, **kv), table, "step")
    assert outcome.column("preemptions").tolist() == [0, 1]


def test_sglang_admits_by_expected_length(lab):
    """With room for one and a half answers, the second waits unless short answers are expected."""
    table = at_once([160, 160], [300, 300], gap=0.01)
    blocks = {"blocks": 44, "max_model_len": 512}

    def preempted(most):
        kv = {"kv": "sglang_retract", "kv_parameters": {"max_new_tokens": most}}
        return int(lab.simulate(lab.Setup(batch="sglang", **blocks, **kv), table, "step").column("preemptions").sum())

    assert preempted(350) == 0 and preempted(10) == 1


def test_trtllm_runs_prompts_beside_decodes(lab):
    """In-flight batching: nobody stalls, and a prompt that exceeds what the decodes leave waits for another step."""
    setup = lab.Setup(batch="trtllm", enable_chunked_prefill=False, max_num_batched_tokens=512, max_model_len=512)
    table = at_once([100, 300, 300], [200, 2, 2], gap=0.02)
    outcome = lab.simulate(setup, table, "step")
    assert first_tokens(outcome)[1] < first_tokens(outcome)[2] < outcome.column("last_token")[0]
    together = at_once([10, 300, 300], [40, 2, 2])
    apart = first_tokens(lab.simulate(setup, together, "step"))
    assert apart[1] < apart[2]  # 600 tokens do not fit 512
    setup.max_num_batched_tokens = 640
    same = first_tokens(lab.simulate(setup, together, "step"))
    assert same[1] == same[2]


def test_trtllm_cuts_prompts_at_blocks(lab):
    """With chunked context, a prompt takes what the budget leaves, in whole blocks of 16: 48 of the first 59."""
    table = at_once([5, 100], [60, 2])
    setup = lab.Setup(batch="trtllm", max_num_batched_tokens=60, max_model_len=512)
    iterations = lab.simulate(setup, table, "step").iterations[0]
    assert [tokens for _, _, _, tokens in iterations if tokens] == [5, 48, 52]


def test_nobody_is_evicted_without_room_to_the_end(lab):
    """GUARANTEED_NO_EVICT: whoever runs has blocks for its longest answer."""
    kv = {"kv": "no_evict", "kv_parameters": {"max_new_tokens": 200}}
    table = at_once([64] * 6, [200] * 6)
    outcome = lab.simulate(lab.Setup(batch="trtllm", blocks=40, max_model_len=512, **kv), table, "step")
    assert outcome.column("preemptions").sum() == 0
    waited = np.sort(outcome.column("scheduled"))
    assert waited[1] < outcome.column("last_token")[0] <= waited[2]  # (64 + 200) / 16 = 17 of 40 blocks: two at a time


@pytest.mark.parametrize("policy", [NoEvict, SglangRetract])
def test_bad_parameters(policy):
    with pytest.raises(InputError, match="max_new_tokens"):
        policy(max_new_tokens=0)


def test_every_preset_names_policies_that_exist():
    for name in names("engines"):
        preset = find_engine(name)
        for kind in ("batch", "kv", "queue"):
            choice = getattr(preset, kind)
            parameters = dict(choice) if isinstance(choice, dict) else {"name": choice}
            make_policy(kind, parameters.pop("name"), parameters)
        assert preset.source and preset.host_source


def shared_prompts(n: int, rate: float, groups: int, shared: int = 96):
    """Prompts of 112 tokens, of which `shared` are their group's."""
    ids = [
        [(i * 7 % groups) * 100 + j if j < shared // 16 else 10_000 + 10 * i + j for j in range(7)] for i in range(n)
    ]
    blocks = PrefixBlocks.of(16, "floor", ids)
    return RequestTable(np.arange(n) / rate, np.full(n, 112), 1 + np.arange(n) % 30, blocks=blocks)


def test_sglang_prefills_a_shared_prefix_once(lab):
    """In-batch prefix caching: of eight that come at once and share six of seven blocks, one is computed first; then
    the others, in one batch, compute a block each. Strangers wait for nobody."""
    alike = shared_prompts(8, np.inf, groups=1)
    chunks = []
    setup = lab.Setup(batch="sglang", caching="runs", blocks=400, max_num_batched_tokens=2048)
    outcome = lab.simulate(
        setup, alike, "step", spy=lambda _, step: chunks.append([tokens for _, tokens, _ in step.admit])
    )
    assert [c for c in chunks if c][:2] == [[112], [16] * 7]
    assert outcome.column("cached_tokens").tolist() == [0, *[96] * 7]
    strangers = lab.simulate(setup, shared_prompts(8, np.inf, groups=8), "step")
    assert len(set(strangers.column("scheduled").tolist())) == 1


@pytest.mark.parametrize("queue", ["fcfs", "longest_prefix"])
@pytest.mark.parametrize("parameters", [{}, {"mixed_chunk": True}])
def test_sglang_with_its_prefix_cache_is_the_oracles(lab, queue, parameters):
    """Leap = step by step = oracle, in memory so tight that prefixes are evicted and requests retracted."""
    kv = {"kv": "sglang_retract", "kv_parameters": {"max_new_tokens": 1, "new_token_ratio": 0.0}}
    setup = lab.Setup(
        batch="sglang", batch_parameters=parameters, queue=queue, caching="runs", blocks=40, max_model_len=320,
        max_num_batched_tokens=160, **kv,
    )  # fmt: skip
    table = shared_prompts(120, 60.0, groups=5)
    leap, step, oracle = (lab.simulate(setup, table, engine) for engine in ("leap", "step", "oracle"))
    plain = lab.simulate(dataclasses.replace(setup, caching="plain"), table, "oracle")
    assert leap.column("cached_tokens").sum() > 0
    for other in (step, oracle, plain):
        assert leap.iterations == other.iterations
        np.testing.assert_array_equal(leap.rows, other.rows)
