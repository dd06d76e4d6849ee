"""Mixtures of experts: uneven routing, experts in the host's memory, fine-tunes that replace some of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from servecast.configs.catalog import find_hardware, find_model
from servecast.configs.experts import Experts, ExpertVariants
from servecast.configs.model import MoE, Parallelism, with_experts
from servecast.costmodels.memory import kv_capacity
from servecast.costmodels.roofline import Roofline
from servecast.costmodels.routing import busiest, chances, imbalance, on_ranks
from servecast.errors import InputError

TICKS = 1 << 36


def step(model: str, batch: int, deployed: Experts | None = None, hardware="h100", **parallel) -> float:
    """Seconds of an iteration of `batch` decodes at 1,000 tokens."""
    card = find_model(model)
    card = with_experts(card, deployed) if deployed else card
    stage = Roofline(card, find_hardware(hardware), **parallel).stages[0]
    return stage.piece((), batch, 1000 * batch, 0, 0)[0] / TICKS


# -- routing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("experts", "top_k"), [(8, 2), (64, 6), (256, 8), (4, 4)])
@pytest.mark.parametrize("skew", [0.0, 0.5, 1.0, 3.0])
def test_chances_are_chances(experts, top_k, skew) -> None:
    """They sum to top_k, none exceeds 1, they fall with popularity, and equal popularities give top_k / experts."""
    found = chances(experts, top_k, skew)
    assert sum(found) == pytest.approx(top_k)
    assert all(0 < q <= 1 for q in found)
    assert all(later <= earlier for earlier, later in pairwise(found))
    if skew == 0:
        assert found == pytest.approx([top_k / experts] * experts)


def test_distinct_experts_of_a_batch_are_what_draws_give() -> None:
    """The expected number of experts that a batch touches, against tokens drawn one by one (conditional Poisson by
    rejection); four standard errors of 400 batches, at most 0.15 of an expert."""
    rng = np.random.Generator(np.random.Philox(7))
    own = np.array(chances(16, 2, 1.0))
    touched = []
    for _ in range(400):
        seen: set[int] = set()
        for _ in range(12):
            drawn = np.flatnonzero(rng.random(16) < own)
            while len(drawn) != 2:
                drawn = np.flatnonzero(rng.random(16) < own)
            seen.update(drawn.tolist())
        touched.append(len(seen))
    card = with_experts(find_model("mixtral-8x7b"), Experts(skew=1.0))
    operators = Roofline(card, find_hardware("h100"), tensor_parallel_size=2).operators[0].layers[0].rows
    experts = next(o for o in operators if o.name == "experts")
    expected = replace(experts, chances=tuple(own)).touched(12)
    assert expected == pytest.approx(np.mean(touched), abs=0.6)  # rejection makes the popular ones likelier still


def test_skew_touches_fewer_experts_and_overloads_a_rank() -> None:
    """One rank: fewer distinct experts to read, so faster. Expert parallelism: the busiest rank sets the pace. Copies
    and placement by load give most of it back."""
    assert step("mixtral-8x7b", 4, Experts(skew=1.5), tensor_parallel_size=2) < step(
        "mixtral-8x7b", 4, Experts(), tensor_parallel_size=2
    )
    parallel = {"data_parallel_size": 8, "enable_expert_parallel": True}
    even, skewed, helped = (
        step("qwen3-30b-a3b", 512, deployed, **parallel)
        for deployed in (Experts(), Experts(skew=1.0), Experts(skew=1.0, redundant=32, balanced=True))
    )
    assert even < helped < skewed
    assert helped - even < 0.5 * (skewed - even)


def test_the_load_of_ranks() -> None:
    """No visit is lost, whatever the placement; balanced placement never does worse, copies neither."""
    plain = MoE(64, 6, 1408, deployed=Experts(skew=1.0))
    for deployed in (Experts(skew=1.0), Experts(skew=1.0, balanced=True), Experts(1.0, 16, True)):
        mlp = replace(plain, deployed=deployed)
        assert sum(sum(place) for place in on_ranks(mlp, 8)) == pytest.approx(6)
        assert imbalance(mlp, 8) <= imbalance(plain, 8)
        assert sum(busiest(mlp, 8)) == pytest.approx(imbalance(mlp, 8) * 6 / 8)
    assert imbalance(MoE(64, 6, 1408), 8) == pytest.approx(1)


def test_even_deployment_is_the_model_as_it_is(bench) -> None:
    """`experts: {}` changes nothing: the same bytes."""
    table = bench.workload(n=20)
    plans = [
        bench.one_pool({"model": "qwen3-30b-a3b", "max_model_len": 8192, **more}) for more in ({}, {"experts": {}})
    ]
    assert len({bench.bytes_of(bench.run(table, plan)) for plan in plans}) == 1


# -- offload -----------------------------------------------------------------------------------------------------


def test_experts_in_the_hosts_memory_make_room_and_cost_time() -> None:
    """What the device holds falls by the experts' bytes; every missing one that is visited crosses the host's link."""
    card, hardware = find_model("mixtral-8x7b"), find_hardware("a100-80gb")
    deployed = [Experts(resident=share) for share in (1.0, 0.5, 0.125)]
    whole, half, least = (kv_capacity(with_experts(card, d), hardware, Parallelism(2)).weight_bytes for d in deployed)
    of_experts = 8 * 3 * 4096 * 14336 * 32 * 2 / 2
    assert whole - half == pytest.approx(of_experts / 2) and whole - least == pytest.approx(of_experts * 7 / 8)
    times = [step("mixtral-8x7b", 1, d, "a100-80gb", tensor_parallel_size=2) for d in deployed]
    assert times[0] < times[1] < times[2]
    # One token visits 2 of 8; with one of eight resident 2 x 7/8 have to come, 7/8 of them of each rank's half.
    link = hardware.host.bandwidth * hardware.achieved.link
    fetched = 2 * 7 / 8 * of_experts / 8 / link
    assert times[2] - times[0] == pytest.approx(fetched, rel=0.01)


def test_a_predictor_hides_what_the_experts_own_time_covers() -> None:
    """ExpertFlow, Read-ME: what is known beforehand comes while the experts compute, and no more of it than fits there:
    over a slow link a perfect predictor saves just that time. (ExpertFlow reports 2 to 10 x over offloading alone.)"""
    blind, half, perfect = (
        step("mixtral-8x7b", 16, Experts(resident=0.5, predicted=p), "b200") for p in (0.0, 0.5, 1.0)
    )
    without = step("mixtral-8x7b", 16, None, "b200")
    assert blind > half >= perfect > without
    read = 8 * (1 - (1 - 2 / 8) ** 16) * 3 * 4096 * 14336 * 32 * 2  # of the experts that 16 tokens visit
    hardware = find_hardware("b200")
    assert blind - perfect == pytest.approx(read / (hardware.memory_bandwidth * hardware.achieved.memory), rel=0.05)


def test_routing_that_is_known_before_the_layers_hides_more() -> None:
    """Read-ME: a fetch hides behind all matrices of the layer, not the experts' alone: over a slow link that saves just
    their time."""
    card, hardware = find_model("mixtral-8x7b"), find_hardware("b200")
    perfect, pregated = (
        step("mixtral-8x7b", 16, deployed, "b200")
        for deployed in (Experts(resident=0.5, predicted=1.0), Experts(resident=0.5, pregated=True))
    )
    cost = Roofline(with_experts(card, Experts(resident=0.5)), hardware)
    (layer,) = cost.operators[0].layers
    others = [o for o in layer.rows if o.name not in ("experts", "expert_fetch")]
    assert perfect - pregated == pytest.approx(32 * sum(cost.times.rows(o, 16)[0] for o in others), rel=1e-6)


def test_one_batch_fetches_what_no_regrouping_undercuts() -> None:
    """ExpertFlow sorts the tokens of two batches by predicted experts, so that each visits fewer different ones. Here
    all decodes are one batch, and an expert crosses the link once for all of them: less than sorted halves take, which
    is less than halves in order of arrival take (means of 200 draws)."""
    rng = np.random.Generator(np.random.Philox(3))
    fetched = np.zeros(3)
    for _ in range(200):
        tokens = np.array([np.sort(rng.permutation(16)[:2]) for _ in range(16)])  # experts of each
        by_experts = tokens[np.lexsort(tokens.T[::-1])]
        for i, batches in enumerate(([tokens], np.split(by_experts, 2), np.split(tokens, 2))):
            fetched[i] += sum(len(np.unique(batch)) for batch in batches)
    assert fetched[0] < 0.97 * fetched[1] < 0.97**2 * fetched[2]
    card = with_experts(find_model("mixtral-8x7b"), Experts(resident=0.125))
    operators = Roofline(card, find_hardware("a100-80gb")).operators[0].layers[0].rows
    fetch = next(o for o in operators if o.name == "expert_fetch")
    assert fetch.bytes(16) < 2 * fetch.bytes(8)


# -- variants ----------------------------------------------------------------------------------------------------


def kv_tokens(count: int, layout: str) -> int:
    """On a device of 64 GB; a variant replaces a tenth of the experts, a fifth in the layer with most."""
    card = find_model("deepseek-v2-lite")
    card = with_experts(card, Experts(variants=ExpertVariants(count, 0.1, 0.2, layout)))
    return kv_capacity(card, replace(find_hardware("ascend-910c"), memory_bytes=64 << 30)).num_tokens


def test_expertweaves_memory_arithmetic() -> None:
    """Each variant costs round(share x 64) experts in 26 layers; padding doubles that. So the KV cache left by padding
    dwindles first: before it is gone the tight layout has more than the published 94 times as much."""
    expert = 3 * 2048 * 1408 * 2
    token = 27 * (512 + 64) * 2
    for layout, held in (("tight", 6), ("padded", 13)):
        one, two = kv_tokens(1, layout), kv_tokens(2, layout)
        assert one - two == pytest.approx(held * 26 * expert / token, abs=17)  # a block at either end
    assert kv_tokens(5, "tight") > 94 * kv_tokens(5, "padded") > 0
    with pytest.raises(InputError, match="leaves no room"):
        kv_tokens(6, "padded")
    assert kv_tokens(10, "tight") > 0


def test_variants_cost_a_few_percent() -> None:
    """ExpertWeave: +4 to 11 % latency with 20 adapters. A kernel that sends tokens to their own experts, and more
    distinct experts to read; nothing else. The batch is not published: 8 to 32 decodes are around that range."""
    variants = Experts(variants=ExpertVariants(20, 0.1))
    slower = [step("deepseek-v2-lite", b, variants) / step("deepseek-v2-lite", b) - 1 for b in (1, 8, 16, 32)]
    assert all(0 < extra < 0.2 for extra in slower)
    assert slower[1] < 0.11 and slower[3] > 0.04


@pytest.mark.parametrize(
    ("pool", "words"),
    [
        ({"experts": {"resident": 0}}, "above 0"),
        ({"experts": {"predicted": 1.1}}, "from 0 to 1"),
        ({"experts": {"skew": -1}}, "0 or more"),
        ({"experts": {"variants": {"count": 1, "mean_share": 0.2, "largest_share": 0.1}}}, "from mean_share"),
        ({"model": "llama-3.1-8b", "experts": {"skew": 1}}, "which has no experts"),
        ({"data_parallel_size": 3, "enable_expert_parallel": True}, "a divisor of 128"),
        (
            {"data_parallel_size": 4, "enable_expert_parallel": True, "experts": {"redundant": 3}},
            "131 experts and copies",
        ),
    ],
)
def test_what_cannot_be_is_refused(bench, pool, words) -> None:
    with pytest.raises(InputError, match=words):
        bench.run(bench.workload(n=3), bench.one_pool({"model": "qwen3-30b-a3b", **pool}))
