"""The report against its own rows: goodput, objectives, why a limit was missed, groups, cost, the verdict on load."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from servecast.configs.plan import plan_from
from servecast.configs.slo import load_slo
from servecast.sim.records import COMPONENTS, End
from servecast.sim.report.explain import components_of
from servecast.sim.report.metrics import Finished
from servecast.sim.report.overload import overload_verdict
from servecast.sim.report.report import build_report
from servecast.sim.run import run
from servecast.traces.columns import Labels
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable

SECOND = 2**36
SLO = """\
goodput: {ttft: 400ms, tpot: 30ms}
classes: {batch: {e2el: 20s}}
objectives: [ttft p99 <= 10ms, tpot mean <= 1s, itl p99 <= 1us, e2el median <= 1h, goodput >= 100%]
"""


def chat(n=600, rate=9.0, seed=0):
    """Prompts of 800 and answers of 150 tokens on average; a third of the requests is of the class batch."""
    s = Stream(seed, "chat")
    arrival = np.cumsum(s.exponential(n)) / rate
    prompts, answers = (np.maximum(1, s.exponential(n) * mean).astype(np.int64) for mean in (800, 150))
    kinds = Labels.of(["batch" if i % 3 == 0 else "chat" for i in range(n)])
    return RequestTable(arrival, prompts, answers, request_class=kinds, tenant=Labels.of(["a", "b"] * (n // 2)))


def plan(clients=None, prices=None, **pool):
    pools = [{"name": "p", "hardware": "a100-80gb", "max_num_seqs": 48, **pool}]
    extra = {"clients": clients or {}, "prices": prices or {}}
    return plan_from({"model": "mistral-7b", "engine": "vllm-0.19", "pools": pools, **extra})


@pytest.fixture(scope="module")
def slo(tmp_path_factory):
    path = tmp_path_factory.mktemp("slo") / "slo.yaml"
    path.write_text(SLO)
    return load_slo(str(path))


@pytest.fixture(scope="module")
def ran():
    """A run in which memory is tight enough to preempt, so that time goes wherever it can on one engine."""
    result = run(chat(), plan(num_gpu_blocks_override=1600, max_model_len=16384))
    c = result.recorder.requests.columns()
    assert all(c[name].any() for name in ("queueing", "prefill", "decode", "interference", "preemption"))
    return result


def rows(result):
    """The rows in order of submission, times in seconds."""
    c = result.recorder.requests.columns()
    order = np.argsort(c["index"])
    return {name: column[order] / (SECOND if column.dtype == np.int64 else 1) for name, column in c.items()}


def test_goodput_is_what_the_rows_say(ran, slo):
    """vLLM's rule: a request is good when it keeps every limit of its class; one token makes a TPOT of 0."""
    report, c = build_report(ran, slo), rows(ran)
    ttft, e2el = c["first_token"] - c["arrival"], c["last_token"] - c["arrival"]
    tpot = (c["last_token"] - c["first_token"]) / np.maximum(c["generated"] - 1, 1)
    batch = np.arange(len(ttft)) % 3 == 0
    good = np.where(batch, e2el <= 20, (ttft <= 0.4) & (tpot <= 0.03))
    assert 0.1 < good.mean() < 0.9  # else the limits above test nothing
    assert report["slo"]["goodput_of_offered"] == report["slo"]["goodput_of_completed"] == good.mean()
    assert report["request_goodput"] == pytest.approx(good.sum() / report["duration"])
    of_class = report["groups"]["request_class"]
    assert of_class["batch"]["goodput_of_offered"] == good[batch].mean()
    assert of_class["chat"]["goodput_of_offered"] == good[~batch].mean()
    assert report["slo"]["limits"]["ttft"]["requests"] == int((ttft > 0.4).sum())


def test_groups_add_up_to_the_whole(ran, slo):
    report = build_report(ran, slo)
    assert set(report["groups"]) == {"request_class", "tenant"}  # the trace has no model labels
    for group in report["groups"].values():
        for key in ("completed", "total_input_tokens", "total_output_tokens"):
            assert sum(part[key] for part in group.values()) == report[key]
        assert sum(part["offered"] for part in group.values()) == report["num_prompts"]
        mean = sum(part["mean_ttft_ms"] * part["completed"] for part in group.values()) / report["completed"]
        assert mean == pytest.approx(report["mean_ttft_ms"])


def test_objectives_are_judged_by_the_figures_beside_them(ran, slo):
    report = build_report(ran, slo)
    verdicts = {o["objective"]: o for o in report["slo"]["objectives"]}
    assert {text: o["met"] for text, o in verdicts.items()} == {
        "ttft p99 <= 10ms": False,
        "tpot mean <= 1s": True,
        "itl p99 <= 1us": False,
        "e2el median <= 1h": True,
        "goodput >= 100%": False,
    }
    assert verdicts["ttft p99 <= 10ms"]["value"] == report["p99_ttft_ms"] / 1e3
    assert verdicts["goodput >= 100%"]["value"] == report["slo"]["goodput_of_offered"]


@pytest.mark.parametrize("metric", ["ttft", "tpot", "itl", "e2el"])
def test_the_components_of_a_metric_sum_to_it(ran, metric):
    """`tpot` and `itl` share the time after the first token. Nine digits: the sums are of floats."""
    requests = Finished(ran)
    whole = {
        "ttft": requests.ttft,
        "e2el": requests.e2el,
        "tpot": requests.e2el - requests.ttft,
        "itl": requests.e2el - requests.ttft,
    }[metric]
    parts = components_of(metric, requests)
    assert set(parts) <= set(COMPONENTS)
    np.testing.assert_allclose(sum(parts.values()), whole, rtol=0, atol=1e-9)
    assert all(np.all(part >= -1e-9) for part in parts.values())


def test_a_miss_names_what_dominates_it(slo):
    """Far above capacity requests wait for a seat; far below, TTFT is the prompt itself and TPOT the decoding."""
    crowded = build_report(run(chat(rate=60.0), plan()), slo)["slo"]
    assert crowded["limits"]["ttft"]["dominating"] == "queueing"
    alone = build_report(run(chat(n=50, rate=0.02), plan()), slo)["slo"]
    verdicts = {o["objective"]: o for o in alone["objectives"]}
    assert verdicts["ttft p99 <= 10ms"]["dominating"] == "prefill"
    assert verdicts["itl p99 <= 1us"]["dominating"] == "decode"
    for block in (crowded["limits"]["ttft"], verdicts["itl p99 <= 1us"]):
        assert sum(block["shares"].values()) == pytest.approx(1)


def test_cost_is_price_over_throughput(ran):
    """USD an hour of all accelerators over tokens an hour; a price of the plan replaces the card's."""
    table = chat(n=60)
    for given, usd in (({}, None), ({"a100-80gb": 7.0}, 7.0)):
        report = build_report(run(table, plan(prices=given, replicas=3)))
        hourly = report["usd_per_hour"]
        assert hourly > 0 if usd is None else hourly == 3 * usd
        per_million = hourly / (report["output_throughput"] * 3600 / 1e6)
        assert report["cost_per_1m_output_tokens"] == pytest.approx(per_million)
        assert report["cost_per_1m_tokens"] < per_million


def test_warm_up_leaves_out_early_arrivals_and_nothing_else(ran):
    c = rows(ran)
    counted = c["arrival"] - c["arrival"].min() >= 20.0
    report = build_report(ran, warmup=20.0)
    assert 0 < report["num_prompts"] == counted.sum() < len(counted)
    assert report["mean_ttft_ms"] == pytest.approx(1e3 * (c["first_token"] - c["arrival"])[counted].mean())


# -- the verdict on load -----------------------------------------------------------------------------------------


def verdict(table, **more):
    return overload_verdict(run(table, plan(**more)))["verdict"]


def test_the_verdict_follows_the_load():
    """This pool sustains about 11 requests/s of this chat: half of that, and three times that."""
    assert verdict(chat(rate=6.0)) == "ok"
    assert verdict(chat(n=1500, rate=36.0)) == "overloaded"


def test_a_burst_that_drains_is_no_overload():
    """A third of the requests within two seconds, the others at a rate that the pool sustains."""
    calm = chat(n=600, rate=4.0)
    arrival = calm.arrival.copy()
    arrival[100:300] = arrival[100] + np.arange(200) / 100
    arrival[300:] += arrival[299] - calm.arrival[299] + 30 - (arrival[299] - arrival[100])
    assert verdict(replace(calm, arrival=np.sort(arrival))) == "bursts exceed capacity"


def test_clients_that_hang_up_do_not_hide_an_overload():
    """With a patience of 5 s no queue grows for long, however many are turned away."""
    table, clients = chat(n=1500, rate=36.0), {"first_token_timeout": 5.0}
    result = run(table, plan(clients=clients))
    assert (result.recorder.requests.columns()["end"] == End.CANCELLED).mean() > 0.2
    assert overload_verdict(result)["verdict"] == "overloaded"
    assert verdict(chat(rate=6.0), clients=clients) == "ok"


def test_a_closed_loop_has_no_overload():
    result = run(chat(n=300), plan(), users=200)
    assert overload_verdict(result)["verdict"] == "closed loop"
