"""The search for the highest load finds where the verdict turns, gives up on no run too early, and says why not."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servecast.configs.plan import Plan, load_plan, plan_from
from servecast.configs.slo import SLO, Objective
from servecast.errors import InputError
from servecast.planner.capacity.capacity import UNSERVED, capacity, misses
from servecast.planner.capacity.knee import SHARES
from servecast.planner.measure.hopeless import Hopeless
from servecast.sim.report.report import build_report
from servecast.sim.run import run
from servecast.traces.columns import Labels
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable
from servecast.traces.transform import scale_rate


def slo(*objectives: str, classes: dict[str, dict[str, float]] | None = None, **limits: float) -> SLO:
    return SLO(limits, classes or {}, tuple(Objective.parse(text, "objectives") for text in objectives))


def poisson(requests: int, rate: float = 10.0, seed: int = 0) -> RequestTable:
    s = Stream(seed, "capacity")
    arrival = np.cumsum(s.exponential(requests)) / rate
    prompts = np.maximum(1, s.exponential(requests) * 400).astype(np.int64)
    outputs = np.maximum(1, s.exponential(requests) * 60).astype(np.int64)
    kinds = Labels(s.integers(requests, 2).astype(np.int32), ("chat", "api"))
    return RequestTable(arrival, prompts, outputs, request_class=kinds)


def plan(replicas: int = 1, **changes: Any) -> Plan:
    pool = {"name": "chat", "hardware": "h100", "replicas": replicas, "max_model_len": 8192, "max_num_seqs": 32}
    return plan_from({"model": "llama-3.1-8b", "engine": "vllm-0.19", "pools": [pool], **changes})


CHAT = slo("ttft p99 <= 500ms", "goodput >= 90%", ttft=0.3, tpot=0.02)


def test_it_is_where_the_verdict_turns() -> None:
    table = poisson(200)
    result = capacity(table, plan(), CHAT, precision=0.02)
    best, worst = result.best, result.worst
    assert result.verdict == "found" and best and worst
    assert 1 < worst.rate_scale / best.rate_scale <= 1.02
    assert best.request_rate == pytest.approx(199 / (table.arrival[-1] - table.arrival[0]) * best.rate_scale)
    for probe in (best, worst):
        report = build_report(run(scale_rate(table, probe.rate_scale), plan()), CHAT)
        assert (misses(report) == ()) == probe.met
        if not probe.stopped:
            assert report == probe.report
    assert {probe.met for probe in result.probes if probe.rate_scale <= best.rate_scale} == {True}


def test_giving_up_early_changes_only_the_work() -> None:
    table = poisson(200)
    for objectives in (CHAT, slo("ttft p50 < 100ms", "tpot p90 <= 11ms", "e2el mean <= 2s")):
        quick = capacity(table, plan(), objectives, precision=0.05)
        whole = capacity(table, plan(), objectives, precision=0.05, stop_early=False)
        assert [(p.rate_scale, p.met) for p in quick.probes] == [(p.rate_scale, p.met) for p in whole.probes]
        assert quick.best == whole.best and any(probe.stopped for probe in quick.probes)


OBJECTIVES = (
    "ttft p99 <= 200ms", "ttft p50 < 80ms", "tpot p90 <= 9ms", "e2el mean <= 700ms", "tpot mean < 9ms", "goodput >= 70%"
)  # fmt: skip


@pytest.mark.parametrize("retries", [0, 2])
def test_whoever_gives_up_was_right(retries: int) -> None:
    """At every load, a run that is stopped would have missed that objective. A hopeless one is stopped."""
    impatient = {"clients": {"timeout": 1.0, "retries": retries, "backoff": 0.1}} if retries else {}
    stopped: dict[str, list[float]] = {objective: [] for objective in OBJECTIVES}
    for rate in (4.0, 40.0, 120.0):
        table = poisson(150, rate)
        whole = run(table, plan(**impatient))
        for objective in OBJECTIVES:
            limits = slo(objective, ttft=0.1, classes={"api": {"e2el": 0.5}})
            watch = Hopeless(limits, table, 1 + retries)
            result = run(table, plan(**impatient), on_end=watch)
            (verdict,) = build_report(whole, limits)["slo"]["objectives"]
            assert result.interrupted == bool(watch.objective)
            if result.interrupted:
                assert not verdict["met"] and result.duration < whole.duration
                stopped[objective].append(rate)
    if retries:
        assert stopped["goodput >= 70%"] and whole.timeouts > 50
    else:
        assert all(rates and rates[-1] == 120.0 and rates[0] > 4.0 for rates in stopped.values())


def test_it_does_not_depend_on_the_rate_of_the_trace() -> None:
    """Only the shape of arrivals counts: the same trace three times as fast gives the same requests a second."""
    slow, fast = (capacity(poisson(200, rate), plan(), CHAT, precision=0.02).best for rate in (10.0, 30.0))
    assert slow and fast
    assert fast.request_rate == pytest.approx(slow.request_rate, rel=0.02)  # the precision of both searches


def test_a_stricter_objective_allows_no_more() -> None:
    """What meets a strict limit meets a loose one, at every load: with common random numbers also in the result."""
    rates = [
        result.best.request_rate
        for limit in ("100ms", "300ms", "2s")
        if (result := capacity(poisson(120), plan(), slo(f"ttft p95 <= {limit}"), precision=0.05)).best
    ]
    assert len(rates) == 3 and rates == sorted(rates)


def test_two_replicas_carry_at_least_what_two_plans_do() -> None:
    """One queue for two engines wastes nothing that two queues do not; and there is no third engine to help."""
    one, two = (capacity(poisson(200), plan(n), CHAT, precision=0.05).best for n in (1, 2))
    assert one and two
    assert 0.95 * 2 * one.request_rate <= two.request_rate <= 3 * one.request_rate


def test_a_queue_that_only_grows_is_no_service() -> None:
    """TPOT is bounded by `max_num_seqs`, however many wait: the limit is what the engine gets done."""
    result = capacity(poisson(200), plan(), slo("tpot p99 <= 1s"), precision=0.05)
    assert result.best and result.worst and result.worst.missed == (UNSERVED,)


def test_no_load_and_every_load() -> None:
    table = poisson(60)
    none = capacity(table, plan(), slo("ttft p99 <= 1us"))
    assert none.verdict == "none" and none.best is None and none.worst
    assert none.worst.missed == ("ttft p99 <= 1us",) and none.worst.report["p99_ttft_ms"] > 1e-3
    assert none.worst.request_rate * none.worst.mean_e2el < 0.05  # hardly anyone met anyone there
    every = capacity(table, plan(), slo("ttft p99 <= 100s"))
    assert every.verdict == "every" and every.best and every.worst is None
    assert scale_rate(table, every.best.rate_scale).arrival[-1] < 2e-3


def test_questions_without_sense() -> None:
    table = poisson(50)
    with pytest.raises(InputError, match=r"objectives: none; expected at least one"):
        capacity(table, plan(), slo(ttft=1.0))
    with pytest.raises(InputError, match=r"classes.chta: no request class .* did you mean 'chat'"):
        capacity(table, plan(), slo("goodput >= 1%", classes={"chta": {}}))
    with pytest.raises(InputError, match=r"clients.closed_loop"):
        capacity(table, plan(clients={"closed_loop": {"users": 3}}), CHAT)
    for heap in (dataclasses.replace(table, arrival=np.zeros(50)), table.take([0])):
        with pytest.raises(InputError, match=r"within 0 s; expected requests at different times"):
            capacity(heap, plan(), CHAT)


# -- the command -----------------------------------------------------------------------------------------------------

WORDS = ("--trace", "generator.yaml", "--plan", "plan.yaml", "--slo", "strict.yaml", "--precision", 0.1, "--limit", 100)


@pytest.fixture(autouse=True)
def strict(folder: Path) -> None:
    """An SLO that a hundred requests suffice to miss."""
    (folder / "strict.yaml").write_text("goodput: {ttft: 100ms}\nobjectives: [ttft p99 <= 150ms, goodput >= 90%]\n")


def test_the_command(servecast: Any, folder: Path) -> None:
    outcome = servecast("capacity", *WORDS, "--seeds", 2, "--out", "out")
    assert (outcome.code, outcome.err) == (0, "")
    summary = json.loads((folder / "out" / "capacity.json").read_text())
    rates = [seed["request_rate"] for seed in summary["seeds"]]
    assert summary["request_rate"]["mean"] == pytest.approx(np.mean(rates)) and len(set(rates)) == 2
    low, high = (summary["request_rate"]["mean"] + s * summary["request_rate"]["half_width"] for s in (-1, 1))
    assert low <= min(rates) <= max(rates) <= high  # by definition for two seeds: Student's factor is 12.7
    assert outcome.out.splitlines()[1] == f"95 % interval over 2 seeds: {low:.4g} to {high:.4g} requests/s"
    curve = list(csv.DictReader((folder / "out" / "curve.csv").read_text().splitlines()))
    scales = [float(row["rate_scale"]) for row in curve]
    assert scales == pytest.approx([share * summary["rate_scale"]["mean"] for share in SHARES])
    assert [float(curve[i]["carried_share"]) for i in (0, -1)] == [1.0, 0.0]
    assert float(curve[-1]["p99_ttft_ms"]) > 3 * float(curve[0]["p99_ttft_ms"])
    assert float(curve[0]["p99_ttft_ms_half_width"]) > 0
    assert (folder / "out" / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_question_has_the_same_answer(servecast: Any, folder: Path) -> None:
    one, two = (servecast("capacity", *WORDS, "--json").out for _ in range(2))
    assert one == two and json.loads(one)["seeds"][0]["rate_scale"] > 0


def test_a_recorded_trace_repeats_exactly(servecast: Any, folder: Path) -> None:
    servecast("trace", "generate", "generator.yaml", "--out", "trace.jsonl")
    outcome = servecast("capacity", *WORDS, "--trace", "trace.jsonl", "--seeds", 2)
    assert outcome.code == 0 and "nothing here is random" in outcome.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", 0], "--seeds: 0; expected at least 1"),
        (["--precision", 0], "--precision: 0; expected a share from 0.0001 to 1"),
        (["--slo", "none.yaml"], "none.yaml: no load meets it: "),
        (["--slo", "lax.yaml"], "generator.yaml: every load meets the SLO, even all requests within a"),
        (["--slo", "limits.yaml"], "limits.yaml: objectives: none; expected at least one"),
        (["--plan", "loop.yaml"], "loop.yaml: clients.closed_loop: clients that wait"),
        (["--plan", "small.yaml"], "small.yaml: pools[0].max_model_len: 8192 tokens need 512 KV blocks"),
        (["--limit", 1], "generator.yaml: 1 requests within 0 s; expected requests at different times"),
    ],
)
def test_a_bad_command(servecast: Any, folder: Path, words: list[object], message: str) -> None:
    plan = (folder / "plan.yaml").read_text()
    (folder / "loop.yaml").write_text(plan + "clients: {closed_loop: {users: 2}}\n")
    (folder / "small.yaml").write_text(plan + "    num_gpu_blocks_override: 4\n")
    (folder / "none.yaml").write_text("objectives: [ttft mean <= 1us]\n")
    (folder / "lax.yaml").write_text("objectives: [ttft p99 <= 1h]\n")
    (folder / "limits.yaml").write_text("goodput: {ttft: 1s}\n")
    outcome = servecast("capacity", *WORDS, *words, "--out", "out")
    assert outcome.code == 2 and outcome.out == ""
    assert message in outcome.err and "Traceback" not in outcome.err


def test_the_message_of_no_load_has_the_values(servecast: Any, folder: Path) -> None:
    (folder / "none.yaml").write_text("objectives: [ttft mean <= 1us, tpot p99 <= 1s]\n")
    outcome = servecast("capacity", *WORDS, "--slo", "none.yaml")
    assert "miss `ttft mean <= 1us` (0.0" in outcome.err and "tpot" not in outcome.err


def test_bundled_plans_and_slos_go_by_name(servecast: Any, folder: Path) -> None:
    outcome = servecast("capacity", *WORDS, "--plan", "bench-1", "--slo", "chat", "--limit", 400, "--precision", 0.5)
    assert outcome.code == 0 and load_plan("bench-1").name == "bench-1"


def test_a_run_given_up_in_the_middle_of_a_step_can_be_closed() -> None:
    """Where roles hand requests over, one ends while its engine books an iteration."""
    pools = [{"name": role, "role": role, "hardware": "h100", "max_model_len": 16384} for role in ("prefill", "decode")]
    split = plan_from({"model": "llama-3.1-8b", "engine": "vllm-0.19", "pools": pools})
    s = Stream(0, "split")
    prompts, outputs = ((s.gamma(20, 4.0) / 4 * mean + 1).astype(np.int64) for mean in (6000, 150))
    table = RequestTable(np.cumsum(s.exponential(20)) / 2.0, np.minimum(prompts, 14000), outputs)
    assert capacity(table, split, slo("ttft p90 <= 2s", "tpot p90 <= 12ms"), precision=0.5).verdict == "found"
