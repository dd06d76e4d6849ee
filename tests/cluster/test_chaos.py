"""Faults: whatever breaks and whenever, every invariant holds, nobody is lost or served twice, and engines agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servecast.costmodels.base import TICKS_PER_SECOND
from servecast.errors import InputError
from servecast.sim.deploy import deploy
from servecast.sim.records import End

HOST = {"name": "host", "capacity": 0.1, "write": "back"}
POOL = {"name": "pool", "capacity": 1.0, "bandwidth": 2e8, "shared": True}
STORE = {"name": "store", "capacity": 0.2, "shared": True, "distributed": True}
SHAPES = {
    "plain": ([{"replicas": 3}], {}),
    "round robin, prefix caching off": ([{"replicas": 3, "enable_prefix_caching": False}], {"router": "round_robin"}),
    "llumnix": ([{"replicas": 3, "num_gpu_blocks_override": 90}], {"router": "llumnix", "rebalancer": "llumnix"}),
    "prefill and decode": ([{"role": "prefill", "replicas": 2}, {"role": "decode", "replicas": 2}], {}),
    "both": (
        [{"role": "prefill", "replicas": 2}, {"role": "decode", "replicas": 2, "num_gpu_blocks_override": 90}],
        {"rebalancer": {"name": "llumnix", "threshold": 6}, "links": {"link": {"bandwidth": 1e9}}},
    ),
    "scaled": (
        [{"replicas": 2}],
        {"scaling": [{
            "pool": "pool0", "policy": {"name": "queue", "high": 1}, "max_replicas": 4, "period": 1.0, "start_up": 1.5,
        }]},
    ),
    "pipeline stages": ([{"replicas": 2, "pipeline_parallel_size": 2}], {}),
    "tiers": ([{"replicas": 3, "num_gpu_blocks_override": 75}], {"tiers": {"levels": [HOST, POOL], "prefetch": 3}}),
    "tiers, prefill and decode": (
        [{"role": "prefill", "replicas": 2, "num_gpu_blocks_override": 90}, {"role": "decode", "replicas": 2}],
        {"tiers": {"levels": [HOST, POOL], "overlap": "serial", "prefetch": 2}},
    ),
    "copies and a store": (
        [{"role": "prefill", "replicas": 3, "num_gpu_blocks_override": 90}, {"role": "decode", "replicas": 2}],
        {"router": "mooncake", "tiers": {"peers": True, "levels": [STORE], "load": "kvcache_balancing"}},
    ),
    "data parallel": ([{"replicas": 2, "data_parallel_size": 2}], {}),
}  # fmt: skip
KINDS = ("crash", "gpu_loss", "slow", "link")


def names(pools):
    return [f"pool{i}/{n}" for i, pool in enumerate(pools) for n in range(pool.get("replicas", 1))]


fault = st.fixed_dictionaries(
    {
        "at": st.floats(0, 12),
        "kind": st.sampled_from(KINDS),
        "which": st.integers(0, 99),
        "duration": st.one_of(st.none(), st.floats(0, 5)),
        "factor": st.sampled_from([0.1, 0.5, 1.0, 1.7, 3.0]),
    }
)


def as_faults(pools, drawn, **keys):
    events = []
    for entry in drawn:
        event = {key: value for key, value in entry.items() if key != "which"}
        event["replica"] = names(pools)[entry["which"] % len(names(pools))]
        low, high = {"slow": (1, 9), "link": (0, 1)}.get(event["kind"], (1, 1))
        event["factor"] = min(max(event["factor"], low), high)
        events.append(event)
    return {"events": events, **keys}


def nobody_lost_or_served_twice(result, table):
    c = result.recorder.requests.columns()
    # Each row of the trace: every attempt but the last one failed or was cancelled, and the last has an end of its own.
    for row in range(len(table)):
        ends = c["end"][c["row"] == row][np.argsort(c["attempt"][c["row"] == row])]
        assert len(ends) >= 1 and not np.any(ends[:-1] == End.FINISHED)
    finished = c["end"] == End.FINISHED
    assert np.all(c["generated"][finished] == c["output_tokens"][finished])


@settings(max_examples=35, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.sampled_from(sorted(SHAPES)),
    drawn=st.lists(fault, min_size=1, max_size=6),
    in_flight=st.sampled_from(["recompute", "retry", "fail"]),
    detection=st.sampled_from([0.0, 0.3]),
    timeout=st.sampled_from([None, 3.0]),
    engine=st.sampled_from(["vllm-0.19", "vllm-0.6"]),
    shared=st.sampled_from([0, 4]),
    seed=st.integers(0, 10**6),
)
def test_any_faults_at_any_time(small, shape, drawn, in_flight, detection, timeout, engine, shared, seed):
    pools, keys = SHAPES[shape]
    faults = as_faults(pools, drawn, in_flight=in_flight, detection=detection)
    clients = {"clients": {"timeout": timeout, "retries": 1}} if timeout else {}
    if "tiers" in keys:
        engine = "vllm-0.19"  # the other one caches no prefixes
    plan = small.plan(pools, engine=engine, faults=faults, **clients, **keys)
    table = small.table(60, 8.0, output=60, seed=seed, shared=shared, burst=bool(seed % 2))
    result = small.run_all(plan, table, seed=seed)
    nobody_lost_or_served_twice(result, table)


@pytest.mark.parametrize("shape", SHAPES)
def test_random_crashes_are_seeded(small, shape):
    pools, keys = SHAPES[shape]
    rate = {"mean_time_between_failures": 4.0, "mean_time_to_repair": 1.0}
    plan = small.plan(pools, faults={"rate": rate}, **keys)
    table = small.table(80, 8.0)
    result = small.run_all(plan, table, seed=1)
    nobody_lost_or_served_twice(result, table)
    assert result.services.faults.crashes >= 2
    other = small.run(table, plan, seed=2)
    assert not np.array_equal(small.rows(result), small.rows(other))


def test_what_a_crash_does_to_those_it_hits(small):
    """Recompute: everybody finishes, later. Retry: a failed row and another attempt. Fail: a failed row."""
    table = small.table(60, 6.0, output=80)
    crash = [{"at": 5.0, "kind": "crash", "replica": "pool0/0", "duration": 2.0}]

    def ends(**keys):
        result = small.run(table, small.plan([{"replicas": 2}], faults={"events": crash, **keys}))
        small.check(result)
        assert result.services.faults.hit >= 3
        return result.recorder.requests.columns(), result.services.faults.hit

    again, _ = ends()
    assert np.all(again["end"] == End.FINISHED) and len(again["end"]) == 60
    retried, hit = ends(in_flight="retry")
    assert (retried["end"] == End.FAILED).sum() == hit and (retried["attempt"] == 1).sum() == hit
    failed, hit = ends(in_flight="fail")
    assert (failed["end"] == End.FAILED).sum() == hit and len(failed["end"]) == 60
    none = small.run(table, small.plan([{"replicas": 2}])).recorder.requests.columns()
    assert again["preemption"].sum() > none["preemption"].sum()


def test_a_cluster_without_a_replica_waits_for_one_or_rejects(small):
    table = small.table(20, 10.0)
    pools = [{"replicas": 1}]
    back = small.plan(pools, faults={"events": [{"at": 0.5, "kind": "crash", "replica": "pool0/0", "duration": 10}]})
    result = small.run_all(back, table)
    c = result.recorder.requests.columns()
    assert np.all(c["end"] == End.FINISHED)
    late = c["arrival"] > TICKS_PER_SECOND
    assert late.any() and c["queueing"][late].min() > 8 * TICKS_PER_SECOND
    gone = small.plan(pools, faults={"events": [{"at": 0.5, "kind": "crash", "replica": "pool0/0"}]})
    ends = small.run_all(gone, table).recorder.requests.columns()["end"]
    assert set(ends.tolist()) <= {End.FINISHED, End.REJECTED, End.FAILED} and (ends == End.REJECTED).any()


def test_nobody_waits_for_a_decode_replica_that_never_comes_back(small):
    """Once all are gone for good, prompts that have been computed fail and give their blocks back."""
    table, pools = small.table(20, 10.0), [{"role": "prefill"}, {"role": "decode"}]
    faults = {"events": [{"at": 1.0, "kind": "crash", "replica": "pool1/0"}]}
    ends = small.run_all(small.plan(pools, faults=faults), table).recorder.requests.columns()["end"]
    assert (ends == End.FAILED).sum() > 5 and set(ends.tolist()) <= {End.FINISHED, End.FAILED}


def test_a_straggler_is_slower_by_its_factor_and_only_while_it_lasts(small):
    """One request alone: its iterations between 1 s and 2 s take three times as long."""
    table = small.table(1, 1.0, prompt=700, output=300, seed=8)
    plain = small.run(table, small.plan([{}])).recorder.requests.columns()
    slow = {"at": 0.0, "kind": "slow", "replica": "pool0/0", "factor": 3.0}
    always = small.run_all(small.plan([{}], faults={"events": [slow]}), table).recorder.requests.columns()
    assert always["ended"][0] == pytest.approx(3 * plain["ended"][0], rel=1e-6)
    short = small.plan([{}], faults={"events": [{**slow, "at": 0.1, "duration": 0.3}]})
    once = small.run_all(short, table).recorder.requests.columns()
    lost = (once["ended"][0] - plain["ended"][0]) / TICKS_PER_SECOND
    assert lost == pytest.approx(0.2, abs=0.1)  # two thirds of 0.3 s, to whole iterations


def test_a_degraded_link_slows_transfers(small):
    pools = [{"role": "prefill"}, {"role": "decode", "num_gpu_blocks_override": 2000}]
    keys = {"topology": {"placement": "by_pool"}}
    table = small.table(40, 2.0)
    bad = {"events": [{"at": 0.0, "kind": "link", "replica": "pool1/0", "factor": 0.1}]}

    def transfer(**more):
        result = small.run(table, small.plan(pools, **keys, **more))
        small.check(result)
        return result.recorder.requests.columns()["transfer"].mean()

    assert transfer(faults=bad) > 4 * transfer()


@pytest.mark.parametrize(
    ("faults", "place", "words"),
    [
        ({"events": [{"at": 1, "kind": "crash", "replica": "pool0/9"}]}, "faults.events[0].replica", "pool0/2"),
        ({"events": [{"at": 1, "kind": "crush", "replica": "pool0/0"}]}, "faults.events[0].kind", "crash"),
        ({"events": [{"at": 1, "kind": "slow", "replica": "pool0/0", "factor": 0.5}]}, "faults.events[0].factor", "1"),
        ({"file": "nowhere.yaml"}, "nowhere.yaml", "no such file"),
        ({"rate": {"mean_time_between_failures": 0, "mean_time_to_repair": 1}}, "faults.rate", "above 0"),
    ],
)
def test_faults_that_make_no_sense_are_refused(small, faults, place, words):
    with pytest.raises(InputError) as error:
        deploy(small.plan([{"replicas": 3}], faults=faults))
    assert place in error.value.where and words in str(error.value)


def test_a_fault_file_is_read_from_the_plans_folder(tmp_path, small):
    import dataclasses

    (tmp_path / "bad day.yaml").write_text("events:\n- {at: 1.0, kind: crash, replica: pool0/0, duration: 1}\n")
    plan = dataclasses.replace(small.plan([{"replicas": 2}], faults={"file": "bad day.yaml"}), folder=str(tmp_path))
    assert small.run(small.table(30, 6.0), plan).services.faults.crashes == 1
    (tmp_path / "bad day.yaml").write_text("events:\n- {at: 1.0, kind: crash, replica: nobody/0}\n")
    with pytest.raises(InputError, match=r"bad day.yaml: events\[0\].replica"):
        deploy(plan)
