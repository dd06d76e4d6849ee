"""The same run again: byte-identical reruns (invariant 6), cut off at the same place (7), exported and replayed (8)."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from math import inf

import numpy as np
import pytest

from servecast.configs.plan import plan_from
from servecast.sim.report.report import build_report
from servecast.sim.report.write import write_requests, write_results
from servecast.sim.run import run
from servecast.traces.columns import Labels, PrefixBlocks
from servecast.traces.load import load
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable
from servecast.traces.write import write

# -- 6 byte-identical reruns -------------------------------------------------------------------------------------

DOUBTFUL = {"name": "oracle", "sigma": 0.5}  # a predictor with an error
MISTRAL = {"model": "mistral-7b", "engine": "vllm-0.19", "pools": [{"name": "p", "hardware": "a100-80gb"}]}
CHAT = {"model": "mistral-7b", "engine": "vllm-0.19", "pools": [{"name": "p", "hardware": "a100-80gb", "replicas": 3}]}


def chat(n, rate, seed=0):
    """Prompts of 800 and answers of 200 tokens on average, Poisson arrivals on whole nanoseconds, three priorities."""
    s = Stream(seed, "chat")
    arrival = np.round(np.cumsum(s.exponential(n)) / rate, 9)
    lengths = [np.maximum(1, s.exponential(n) * mean).astype(np.int64) for mean in (800, 200)]
    tenant = Labels.of([f"tenant {i % 3}" for i in range(n)])
    return RequestTable(arrival, *lengths, priority=s.integers(n, 3), tenant=tenant)


def files(table, plan, folder, **options):
    """The bytes of what a run writes; of the report, what is not a fingerprint of the input."""
    result = run(table, plan, **options)
    folder.mkdir()
    write_results(result, build_report(result), folder)
    report = json.loads((folder / "report.json").read_text())
    for key in ("plan_fingerprint", "trace_fingerprint", "seed"):
        del report["simulation"][key]
    return {
        "report": report,
        "requests": (folder / "requests.csv.gz").read_bytes(),
        "time series": (folder / "timeseries.csv.gz").read_bytes(),
    }


RERUN = """
import sys, json
from pathlib import Path
from servecast.configs.plan import plan_from
from servecast.sim.report.report import build_report
from servecast.sim.run import run
from servecast.sim.report.write import write_results
from servecast.traces.load import load

table = load(sys.argv[1])
for name, plan in json.loads(sys.argv[2]).items():
    folder = Path(sys.argv[3]) / name
    folder.mkdir(parents=True)
    result = run(table, plan_from(plan), seed=7)
    write_results(result, build_report(result), folder)
"""


def test_6_two_processes_with_different_hash_seeds_write_the_same_bytes(tmp_path):
    """Random routers, retries, a predictor with error, preemption and swapping, all in one trace of several tenants."""
    tight = {"num_gpu_blocks_override": 800, "max_model_len": 8192}
    v0_swap = {"engine": "vllm-0.6", "kv": {"name": "swap", "reserve": "prompt"}}
    plans = {
        "routed": {**CHAT, "router": "power_of_two", "clients": {"timeout": 4.0, "retries": 2}},
        "sjf": {**CHAT, "router": "random", "predictor": DOUBTFUL, "defaults": {"queue": "sjf"}},
        "v1": {**MISTRAL, "defaults": tight},
        "swap": {**MISTRAL, "defaults": {**tight, **v0_swap}},
    }
    trace = tmp_path / "trace.jsonl"
    write(chat(300, 12.0), trace)
    for hash_seed in "12":
        subprocess.run(
            [sys.executable, "-c", RERUN, str(trace), json.dumps(plans), str(tmp_path / hash_seed)],
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)},
            check=True,
            cwd=tmp_path,
        )
    for plan in plans:
        for file in ("report.json", "requests.csv.gz", "timeseries.csv.gz"):
            first, second = ((tmp_path / hash_seed / plan / file).read_bytes() for hash_seed in "12")
            assert first == second, f"{plan}/{file}"
    reports = {plan: json.loads((tmp_path / "1" / plan / "report.json").read_text()) for plan in plans}
    assert reports["routed"]["simulation"]["timeouts"] > 10
    assert reports["v1"]["simulation"]["preemptions"] > 10 and reports["swap"]["simulation"]["preemptions"] > 10


DISABLED = {
    "clients without limits": {"clients": {"retries": 0, "backoff": 5.0}},
    "a view that is never old": {"router": {"name": "least_outstanding", "view_age": 0.0}},
    "a predictor that nobody asks": {"predictor": DOUBTFUL},
    "policies by name at their defaults": {
        "defaults": {"batch": {"name": "vllm_v1", "watermark": 0.0}, "kv": {"name": "recompute", "watermark": 0.0}},
    },
    "no long-prefill threshold": {"defaults": {"long_prefill_token_threshold": 0}},
    "swap space that no policy uses": {"defaults": {"swap_space": 4}},
    "one rank, one stage": {"defaults": {"data_parallel_size": 1, "pipeline_parallel_size": 1}},
    "links as on the card": {"links": {"link": {}, "network": {}, "host": {}}},
}  # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return files(chat(300, 12.0), plan_from(CHAT), tmp_path_factory.mktemp("plain") / "out")


@pytest.mark.parametrize("name", DISABLED)
def test_6_a_feature_that_is_off_leaves_every_byte_alone(plain, tmp_path, name):
    assert files(chat(300, 12.0), plan_from({**CHAT, **DISABLED[name]}), tmp_path / "out") == plain


def test_6_clients_that_never_hang_up_leave_every_byte_alone(plain, tmp_path):
    table = replace(chat(300, 12.0), cancel_after=np.full(300, inf))
    assert files(table, plan_from(CHAT), tmp_path / "out") == plain


def test_6_priorities_do_not_matter_to_first_come_first_served(plain, tmp_path):
    table = chat(300, 12.0)
    turned = files(replace(table, priority=2 - table.priority), plan_from(CHAT), tmp_path / "out")
    assert turned["report"] == plain["report"] and turned["time series"] == plain["time series"]


def test_6_block_ids_leave_every_byte_alone_where_prefix_caching_is_off(tmp_path):
    """Nor does prefix caching, where there are none. With both, there is much to find."""
    table = chat(300, 12.0)
    shared = PrefixBlocks.of(16, "floor", [list(range(n // 16)) for n in table.prompt_tokens.tolist()])
    llama = {**CHAT, "model": "llama-3.1-8b"}
    off, on = ({**llama, "defaults": {"enable_prefix_caching": wanted}} for wanted in (False, True))

    def outcome(blocks, plan, name):
        return files(replace(table, blocks=blocks), plan_from(plan), tmp_path / name)

    without = outcome(None, off, "off")
    assert without == outcome(shared, off, "ids") == outcome(None, on, "on")
    assert outcome(shared, on, "both")["requests"] != without["requests"]


@pytest.mark.parametrize(
    "options",
    [{"seed": 9}, {"progress": lambda *_: None}, {"horizon": 1e5}],
    ids=["a seed that nobody draws from", "progress", "a horizon that is never reached"],
)
def test_6_options_that_change_nothing_leave_every_byte_alone(plain, tmp_path, options):
    assert files(chat(300, 12.0), plan_from(CHAT), tmp_path / "out", **options) == plain


def test_6_patience_that_never_runs_out_leaves_every_byte_alone(plain, tmp_path):
    """Timers that outlive their requests are no events of the run: neither its duration nor its series may see them."""
    patient = {**CHAT, "clients": {"timeout": 1e5, "retries": 3}}
    assert files(chat(300, 12.0), plan_from(patient), tmp_path / "out") == plain


def test_6_the_reports_above_do_look(plain, tmp_path):
    """A feature that is on changes the bytes: a view half a second old sends requests elsewhere."""
    changed = {**CHAT, "router": {"name": "least_outstanding", "view_age": 0.5}}
    assert files(chat(300, 12.0), plan_from(changed), tmp_path / "out")["requests"] != plain["requests"]


# -- 7 a run that is cut off is cut off at the same place however it leapt ----------------------------------------


def test_7_a_horizon_in_the_middle_of_a_leap_loses_no_token():
    """Two long answers with nothing to disturb them are one leap; at 5 s a hundred tokens and more have come."""
    table = RequestTable(np.array([0.0, 0.1]), np.array([100, 100]), np.array([4000, 3000]))
    leap, step = (run(table, plan_from(MISTRAL), horizon=5.0, step_by_step=steps) for steps in (False, True))
    assert leap.leaps < 10
    for name in ("generated", "end", "ended"):
        a, b = (r.recorder.requests.columns()[name] for r in (leap, step))
        assert a.tolist() == b.tolist(), name
    assert leap.engines[0].busy == step.engines[0].busy


# -- 8 exporting a run and replaying it --------------------------------------------------------------------------


def requests_file(result, path):
    write_requests(result, path)
    return path.read_bytes()


def test_8_a_table_written_and_read_back_gives_the_same_run(tmp_path):
    """The native format keeps arrivals to the bit, priorities and labels."""
    plan = plan_from({**CHAT, "defaults": {"queue": "priority"}})
    table = chat(300, 12.0)
    table = replace(table, arrival=table.arrival * (1 + 2.0**-40))  # no round numbers
    write(table, tmp_path / "trace.jsonl.gz")
    again = load(tmp_path / "trace.jsonl.gz")
    first, second = (requests_file(run(t, plan), tmp_path / f"{i}.csv.gz") for i, t in enumerate((table, again)))
    assert first == second


@pytest.mark.parametrize("queue", ["fcfs", "priority"])
def test_8_requests_csv_is_a_trace_that_gives_the_same_run(tmp_path, queue):
    """Arrivals on whole nanoseconds, as any trace in decimals has them, survive the export exactly."""
    plan = plan_from({**CHAT, "defaults": {"queue": queue, "num_gpu_blocks_override": 900, "max_model_len": 8192}})
    first = run(chat(300, 25.0), plan)
    path = tmp_path / "requests.csv.gz"
    exported = requests_file(first, path)
    second = run(load(path), plan)
    assert first.engines[0].preemptions > 0
    assert requests_file(second, tmp_path / "again.csv.gz") == exported


def test_8_any_arrival_is_kept_to_the_nanosecond(tmp_path):
    """Arrivals between nanoseconds are rounded once: the export of a replay is the export that was replayed."""
    plan = plan_from(MISTRAL)
    table = chat(100, 3.0)
    table = replace(table, arrival=np.cumsum(Stream(1, "odd").exponential(100)) / 3.0)
    path = tmp_path / "requests.csv.gz"
    requests_file(run(table, plan), path)
    once = load(path)
    assert np.abs(once.arrival - table.arrival).max() <= 0.5e-9 + 2.0**-37  # and half a tick
    requests_file(run(once, plan), tmp_path / "second.csv.gz")
    twice = load(tmp_path / "second.csv.gz")
    np.testing.assert_array_equal(once.arrival, twice.arrival)
