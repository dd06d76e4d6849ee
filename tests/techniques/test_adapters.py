"""LoRA adapters: S-LoRA's published table, Punica's invariance, the memory that adapters and KV cache share."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servecast.configs.adapters import Adapters
from servecast.configs.catalog import find_hardware, find_model
from servecast.configs.model import Parallelism
from servecast.configs.plan import plan_from
from servecast.costmodels.lora import LoraCost
from servecast.errors import InputError
from servecast.sim.core import Request
from servecast.sim.engine.adapters import adapters_of
from servecast.sim.kv.adapterpool import AdapterPool
from servecast.traces.columns import Labels
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable

S1, S2 = [8], [64, 32, 16, 8]


def slora_trace(rate=2.5, n=600, seed=1) -> RequestTable:
    """S-LoRA's synthetic workload: lengths uniform in [8, 512], Gamma arrivals with a coefficient of variation of 1."""
    s = Stream(seed, "s-lora")
    arrival = np.cumsum(s.exponential(n)) / rate
    return RequestTable(arrival - arrival[0], 8 + s.integers(n, 505), 8 + s.integers(n, 505))


def slora(bench, count: int, ranks: list[int], memory="unified", **trace) -> float:
    """Requests a second of Llama-7B on an A10G with so many adapters."""
    plan = plan_from({
        "model": "llama-7b", "engine": "vllm-0.19",
        "pools": [{"name": "p", "hardware": "a10g", "max_model_len": 1024, "enable_prefix_caching": False}],
        "adapters": {"count": count, "ranks": ranks, "popularity": "power", "alpha": 1.0, "memory": memory},
    })  # fmt: skip
    done = bench.run(slora_trace(**trace), plan)
    return len(done.table) / (done.duration / 2**36)


@pytest.mark.parametrize(("ranks", "published"), [(S1, 1.78 / 1.83), (S2, 1.58 / 1.74)])
def test_the_published_drop_from_1_to_200_adapters(bench, ranks, published) -> None:
    """S-LoRA's results at 2 requests/s on an A10G: 1.83, 1.81, 1.79, 1.78, 1.78 for S1 and 1.74, 1.68, 1.61, 1.59, 1.58
    for S2 with 1, 20, 50, 100, 200 adapters: it did not serve all. So the ratio is compared where this engine cannot
    either, at 2.5 requests/s, within 0.03; and the curve only falls (0.5 %: arrivals are drawn)."""
    found = [slora(bench, count, ranks) for count in (1, 20, 50, 200)]
    assert found[-1] / found[0] == pytest.approx(published, abs=0.03)
    assert all(later < 1.005 * earlier for earlier, later in pairwise(found))


def test_without_the_shared_pool_it_collapses(bench) -> None:
    """All adapters on the device from the start: the KV cache shrinks until little is left, then nothing fits."""
    shared, static = (slora(bench, 100, S2, memory, n=200) for memory in ("unified", "static"))
    assert static < 0.5 * shared
    with pytest.raises(InputError, match="all 200 adapters take"):
        slora(bench, 200, S2, "static")


def test_punicas_throughput_hardly_depends_on_the_popularity(bench) -> None:
    """Batches of 32, rank 16, A100-80GB: distinct, uniform, skewed and identical adapters serve alike. 10 %: the
    weights of 32 adapters are 2.6 GB beside the model's 13.5, and the rest of an iteration does not grow."""
    rates = []
    for popularity in ("distinct", "uniform", "power", "identical"):
        plan = plan_from({
            "model": "llama-2-7b", "engine": "vllm-0.19",
            "pools": [{
                "name": "p", "hardware": "a100-80gb", "max_model_len": 4096, "max_num_seqs": 32,
                "enable_prefix_caching": False,
            }],
            "adapters": {
                "count": 300, "ranks": [16], "popularity": popularity, "alpha": 1.5,
                "targets": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
            },
        })  # fmt: skip
        table = bench.workload(n=200, rate=1000.0, prompt=200, output=200)
        rates.append(len(table) / bench.run(table, plan).duration)
    assert min(rates) > 0.9 * max(rates)
    assert rates[0] == min(rates) and rates[3] == max(rates)


def test_an_adapters_bytes_are_the_formulas() -> None:
    """2 x rank x hidden x targets x layers x bytes, for q, k, v and o of a model with as many KV heads as heads."""
    cost = LoraCost(Adapters(2, (8, 64)), find_model("llama-7b"), find_hardware("a10g"), Parallelism())
    assert [cost.adapter_bytes(i) for i in (0, 1)] == [2 * r * 4096 * 4 * 32 * 2 for r in (8, 64)]


def test_kernels_are_flat_in_distinct_adapters_until_memory_bounds_them() -> None:
    """One more adapter in a batch costs its bytes, not another launch; one alone costs the launches."""
    hardware = find_hardware("a100-80gb")
    cost = LoraCost(Adapters(64, (16,)), find_model("llama-2-7b"), hardware, Parallelism())
    times = [cost.iteration(dict.fromkeys(range(n), 1)) / 2**36 for n in (1, 2, 32)]
    launches = 32 * 2 * 2 * hardware.achieved.kernel_seconds
    a_read = cost.adapter_bytes(0) / (hardware.memory_bandwidth * hardware.achieved.memory)
    assert times[0] == pytest.approx(launches, rel=0.1)
    assert times[2] - times[0] == pytest.approx(31 * a_read, rel=0.1)  # and the activations


def test_popularity_laws() -> None:
    table = slora_trace(n=4000)
    drawn = np.bincount(adapters_of(Adapters(10, popularity="power", alpha=1.0), table, 0), minlength=10)
    expected = 4000 / np.arange(1, 11) / np.sum(1 / np.arange(1, 11))
    assert np.sum((drawn - expected) ** 2 / expected) < 27.9  # chi-square, 9 degrees of freedom, 999 of 1000
    assert adapters_of(Adapters(3, popularity="distinct"), table, 0)[:4] == [0, 1, 2, 0]
    assert set(adapters_of(Adapters(3, popularity="identical"), table, 0)) == {0}
    named = RequestTable(np.zeros(3), np.ones(3, int), np.ones(3, int), model=Labels.of(["x", "y", "x"]))
    assert adapters_of(Adapters(2, popularity="model"), named, 0) == [0, 1, 0]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), max_size=60))
def test_the_pool_conserves_blocks(moves) -> None:
    """Whatever comes and goes: free + requests' blocks + adapters in use = total, and idle adapters fit into what is
    free."""
    sizes = [1, 2, 3, 5, 8, 13]
    pool, held = AdapterPool(60, sizes), []
    for i, (adapter, blocks) in enumerate(moves):
        request = Request(i, i, 0, 1)
        request.adapter, request.blocks = adapter, blocks
        if blocks + pool.lookup(request, {})[1] <= pool.free:
            pool.admit(request)
            held.append(request)
        elif held:
            pool.release(held.pop(i % len(held)))
        in_use = sum(sizes[a] for a in {r.adapter for r in held})
        assert pool.free + sum(r.blocks for r in held) + in_use == 60
        idle = [a for a in range(6) if pool.resident(a) and a not in {r.adapter for r in held}]
        assert sum(sizes[a] for a in idle) <= pool.free
    for request in held:
        pool.release(request)
    assert pool.free == 60


def test_adapter_aware_routing_fetches_less(bench) -> None:
    """Many adapters, four replicas whose memory holds few: a home for each adapter saves fetches, and time."""

    def fetches(router: str) -> int:
        plan = plan_from({
            "model": "llama-7b", "engine": "vllm-0.19", "router": router,
            "pools": [{
                "name": "p", "hardware": "a10g", "replicas": 4, "max_model_len": 1024, "num_gpu_blocks_override": 300,
                "enable_prefix_caching": False,
            }],
            "adapters": {"count": 60, "ranks": [64], "popularity": "uniform", "prefetch": False},
        })  # fmt: skip
        return bench.run(slora_trace(rate=3.0, n=150), plan).duration

    assert fetches("adapter_affinity") < fetches("least_outstanding")


@pytest.mark.parametrize(
    ("adapters", "pool", "words"),
    [
        ({"count": 0}, {}, "at least 1"),
        ({"count": 1, "ranks": []}, {}, "one or more"),
        ({"count": 1, "ranks": [8192]}, {}, "the largest adapter takes"),
        ({"count": 1, "targets": ["qvk_proj"]}, {}, "qkv_proj"),
        ({"count": 1, "popularity": "model"}, {}, "no such column"),
        ({"count": 1}, {"batch": "vllm_v0", "enable_chunked_prefill": False}, "does not look adapters up"),
        ({"count": 1}, {"enable_prefix_caching": True}, "a prefix is one adapter's"),
        ({"count": 1}, {"pipeline_parallel_size": 2}, "stages"),
    ],
)
def test_what_cannot_be_is_refused(bench, adapters, pool, words) -> None:
    pools = [{"name": "p", "hardware": "a10g", "max_model_len": 1024, **pool}]
    with pytest.raises(InputError, match=words):
        bench.run(
            slora_trace(n=5),
            plan_from({"model": "llama-7b", "engine": "vllm-0.19", "pools": pools, "adapters": adapters}),
        )
