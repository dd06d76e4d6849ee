"""Two streams on one GPU (Nexus, 2025): the signs of its ablation, what shares and contention cost, the controller."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from servecast.configs.catalog import find_hardware, find_model
from servecast.configs.plan import plan_from
from servecast.configs.streams import Streams
from servecast.costmodels.roofline import Roofline
from servecast.costmodels.shared import Composition, SharedTimes
from servecast.errors import InputError
from servecast.sim.policies.registry import make_policy
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable


def mixed(n=150, rate=2.5, prompt=1500, output=200) -> RequestTable:
    s = Stream(0, "nexus")
    arrival = np.cumsum(s.exponential(n)) / rate
    lengths = [np.clip(s.exponential(n) * mean, 2, 6 * mean).astype(np.int64) for mean in (prompt, output)]
    return RequestTable(arrival - arrival[0], *lengths)


def outcome(bench, **pool) -> SimpleNamespace:
    base = {"name": "p", "hardware": "l20", "max_model_len": 16384, "max_num_batched_tokens": 2048}
    plan = plan_from({"model": "llama-3.1-8b", "engine": "vllm-0.12", "pools": [{**base, **pool}]})
    done = bench.run(mixed(), plan)
    assert all(done.invariants.values())
    report = bench.report(done)
    return SimpleNamespace(ttft=report["mean_ttft_ms"], tbt=report["mean_itl_ms"], p99=report["p99_itl_ms"])


def test_the_signs_of_the_ablation(bench) -> None:
    """Published, on an L20: dividing the multiprocessors lowers the time between tokens and raises TTFT (-14 %, +30 %);
    shortest prefill first then brings TTFT down (to -23 %) and costs decodes nothing. Without control prompts, whose
    grids are large, occupy nearly all of them: a fixed 90 %."""
    free = outcome(bench, streams={}, batch={"name": "nexus", "shares": [0.9, 0.1], "order": "arrival"})
    divided = outcome(bench, streams={}, batch={"name": "nexus", "order": "arrival"})
    both = outcome(bench, streams={}, batch="nexus")
    assert divided.tbt < 0.86 * free.tbt and divided.ttft > free.ttft
    assert both.ttft < 0.9 * divided.ttft and both.tbt < 1.05 * divided.tbt
    mixed_batches = outcome(bench)
    assert both.p99 < mixed_batches.p99 / 2.5  # published: up to 2.5 x lower time between tokens than vLLM


@pytest.fixture(scope="module")
def times() -> SharedTimes:
    card, hardware = find_model("llama-3.1-8b"), find_hardware("l20")
    return SharedTimes(lambda hw: Roofline(card, hw), hardware, Streams())


PROMPTS, DECODES = Composition(((2048, 0),), 0, 0, 0, 0), Composition((), 32, 32 * 1000, 1000, 1000)


def test_alone_a_stream_has_the_whole_gpu(times) -> None:
    whole = Roofline(find_model("llama-3.1-8b"), find_hardware("l20")).stages[0]
    for batch in (PROMPTS, DECODES):
        assert times.alone(batch) == whole.piece(*batch)[0]


def test_shares_have_diminishing_returns_and_memory_is_contended(times) -> None:
    """Prompts gain from every multiprocessor; decodes next to nothing beyond the share that draws the whole bandwidth,
    yet they are slower than alone as long as prompts draw some of it."""
    prompts, decodes = zip(*(times.together(PROMPTS, DECODES, share / 10) for share in range(1, 10)), strict=True)
    assert list(prompts) == sorted(prompts, reverse=True) and prompts[0] > 5 * prompts[-1]
    assert list(decodes) == sorted(decodes) and decodes[-1] > 2 * decodes[5]
    assert decodes[0] < 1.3 * decodes[5]
    assert decodes[4] > times.alone(DECODES) == decodes[0] and min(prompts) > times.alone(PROMPTS)


def view(free: int) -> SimpleNamespace:
    return SimpleNamespace(free_blocks=free, total_blocks=100)


def test_the_controller_serves_prompts_until_memory_is_short_and_has_hysteresis() -> None:
    """Prompts take 1/share, decodes 1/(1 - share): within 2 x of the best decode time prompts may have 0.5; within 2 x
    of the best prompt time decodes may have as much."""

    def reciprocal(share: float) -> tuple[int, int]:
        return round(9e6 / share), round(9e6 / (1 - share))

    policy = make_policy("batch", "nexus", {"alpha": 3.0, "beta": 2.0, "delta": 0.15})
    assert policy.divide(view(free=90), reciprocal) == pytest.approx(0.5)  # 1 / (1 - s) <= 2 / 0.9, s <= 0.55
    assert policy.divide(view(free=10), reciprocal) == pytest.approx(0.3)  # 1 / s <= 3 / 0.9
    slack = make_policy("batch", "nexus", {"alpha": 3.0, "beta": 1.5, "delta": 0.15})
    assert slack.divide(view(free=90), reciprocal) == 0.5  # 0.4 is wanted, which is no more than 0.15 away
    assert make_policy("batch", "nexus", {"shares": [0.8, 0.2]}).divide(view(10), reciprocal) == 0.8


@pytest.mark.parametrize(
    ("pool", "words"),
    [
        ({"streams": {}, "batch": {"name": "nexus", "shares": [0.5, 0.6]}}, "sum to 1"),
        ({"streams": {"bandwidth_saturation": 0}, "batch": "nexus"}, "above 0"),
        ({"streams": {}}, "batch: nexus"),
        ({"streams": {}, "batch": "nexus", "pipeline_parallel_size": 2}, "stages"),
        ({"streams": {}, "batch": {"name": "nexus", "beta": 0.9}}, "at least 1"),
    ],
)
def test_what_cannot_be_is_refused(bench, pool, words) -> None:
    with pytest.raises(InputError, match=words):
        outcome(bench, **pool)
