"""A sweep does every run once, loses none to another's failure, and leaves the same files however it went."""

from __future__ import annotations

import csv
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from servecast.configs.catalog import find
from servecast.errors import InputError
from servecast.planner.sweep.executors import LocalExecutor
from servecast.planner.sweep.run import Outcome
from servecast.planner.sweep.sweep import LOSSES

CARD = find("hardware", "h100").read_text()
BANDWIDTH = "memory_bandwidth: "
LOST = Outcome("lost", error="killed by SIGKILL")
FAULT = Outcome("failed", error="ZeroDivisionError: division by zero (sim/engine/rank.py:1)")


def statuses(ledger: Any) -> list[tuple[str, int, str]]:
    return [(row.status, row.attempts, row.error) for row in ledger.rows().values()]


@pytest.fixture
def one_run_a_seed(folder: Path) -> Path:
    """Four runs, told apart by their seeds."""
    text = "base: {plan: plan.yaml, trace: generator.yaml, slo: slo.yaml, limit: 30}\ngrid: {seed: [0, 1, 2, 3]}\n"
    (folder / "sweep.yaml").write_text(text)
    return folder


def test_the_command(servecast: Any, folder: Path) -> None:
    outcome = servecast("sweep", "sweep.yaml", "--out", "out", "--workers", 2)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("8 of 8 runs done, 0 failed\n")
    table = list(csv.DictReader((folder / "out" / "sweep.csv").read_text().splitlines()))
    combinations = [(row["plan.router"], row["rate_scale"], row["seed"]) for row in table]
    routers = ("least_outstanding", "round_robin")
    assert combinations == [(r, x, s) for r in routers for x in ("1", "4") for s in ("0", "1")]
    for row in table:
        report = json.loads((folder / "out" / "runs" / row["fingerprint"] / "report.json").read_text())
        assert row["status"] == "done" and row["invariants_hold"] == "True"
        assert float(row["p99_ttft_ms"]) == report["p99_ttft_ms"] > 0
        assert row["objectives_met"] == str(all(o["met"] for o in report["slo"]["objectives"]))
        assert report["simulation"]["seed"] == int(row["seed"])
    assert (folder / "out" / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_is_what_simulate_does(servecast: Any, sweep_with: Any, in_process: Any, folder: Path) -> None:
    """The sweep's report of a combination is that of `servecast simulate` with the same flags."""
    sweep_with(in_process())
    words = ["--trace", "generator.yaml", "--plan", "plan.yaml", "--slo", "slo.yaml", "--rate-scale", 4, "--seed", 1]
    assert servecast("simulate", *words, "--out", "one").code == 0
    one = (folder / "one" / "report.json").read_bytes()
    assert one in [path.read_bytes() for path in (folder / "out" / "runs").glob("*/report.json")]


def test_the_order_of_ends_and_the_kind_of_workers_change_nothing(
    servecast: Any, sweep_with: Any, in_process: Any, content: Any, folder: Path
) -> None:
    sweep_with(in_process(slots=5, backwards=True), out="other").close()
    for out in ("other", "out"):  # the command writes what is about all runs
        assert servecast("sweep", "sweep.yaml", "--out", out, "--workers", 2).code == 0
    assert content(folder / "other") == content(folder / "out")


def test_what_is_done_is_not_done_again(sweep_with: Any, in_process: Any, one_run_a_seed: Path) -> None:
    sweep_with(in_process(slots=2))
    again = in_process()
    assert statuses(sweep_with(again)) == [("done", 1, "")] * 4 and again.attempts == []
    next((one_run_a_seed / "out" / "runs").glob("*/report.json")).write_text('{"half')
    sweep_with(again)
    assert len(again.attempts) == 1


def test_a_failing_run_loses_no_other(sweep_with: Any, in_process: Any, one_run_a_seed: Path) -> None:
    executor = in_process(slots=2, fates={2: [FAULT] * 9})
    ledger = sweep_with(executor, retries=2)
    done = ("done", 1, "")
    assert statuses(ledger) == [done, done, ("failed", 3, FAULT.error), done]
    assert executor.attempts.count(2) == 3
    executor.fates.clear()
    assert statuses(sweep_with(executor)) == [done, done, ("failed", 3, FAULT.error), done]
    assert statuses(sweep_with(executor, retry_failed=True)) == [done] * 4


def test_a_second_try_that_works_leaves_no_error(sweep_with: Any, in_process: Any, one_run_a_seed: Path) -> None:
    ledger = sweep_with(in_process(fates={1: [FAULT]}), retries=1)
    assert statuses(ledger) == [("done", 1, ""), ("done", 2, ""), ("done", 1, ""), ("done", 1, "")]


def test_a_lost_worker_is_no_attempt(sweep_with: Any, in_process: Any, one_run_a_seed: Path) -> None:
    executor = in_process(slots=3, fates={0: [LOST] * (LOSSES - 1), 3: [LOST] * LOSSES})
    done = ("done", 1, "")
    lost = f"lost {LOSSES} workers, the last one killed by SIGKILL"
    assert statuses(sweep_with(executor)) == [done, done, done, ("failed", 0, lost)]


def test_plans_that_cannot_start_fail_and_the_others_run(servecast: Any, folder: Path) -> None:
    text = "base: {plan: plan.yaml, trace: generator.yaml}\n"
    (folder / "sweep.yaml").write_text(text + 'grid: {"plan.pools[0].num_gpu_blocks_override": [4, 4000]}\n')
    outcome = servecast("sweep", "sweep.yaml", "--out", "out", "--workers", 1, "--json")
    summary = json.loads(outcome.out)
    assert outcome.code == 1 and (summary["done"], summary["failed"]) == (1, 1)
    (error,) = summary["failures"]
    assert error.startswith("pools[0].max_model_len: 8192 tokens need 512 KV blocks")
    failed, done = csv.DictReader((folder / "out" / "sweep.csv").read_text().splitlines())
    assert (failed["error"], failed["completed"]) == (error, "") and done["status"] == "done"


def test_a_mistake_in_every_plan_is_one_in_the_sweep(servecast: Any, folder: Path) -> None:
    (folder / "sweep.yaml").write_text("base: {plan: plan.yaml, trace: generator.yaml, plan.router: round_robbin}\n")
    outcome = servecast("sweep", "sweep.yaml", "--out", "out")
    assert outcome.code == 2 and "did you mean 'round_robin'?" in outcome.err
    assert not (folder / "out").exists()


def test_twins_are_merged_with_a_word(servecast: Any, folder: Path) -> None:
    (folder / "same.yaml").write_text((folder / "generator.yaml").read_text())
    text = "base: {plan: plan.yaml}\ngrid: {trace: [generator.yaml, same.yaml], seed: [0, 0]}\n"
    (folder / "sweep.yaml").write_text(text)
    outcome = servecast("sweep", "sweep.yaml", "--out", "out", "--workers", 1)
    assert outcome.code == 0 and outcome.out.startswith("1 of 1 runs done")
    merged = [line for line in outcome.err.splitlines() if line.startswith("merged: ")]
    assert len(merged) == 3
    plan = "plan=plan.yaml"
    assert (
        merged[1] == f"merged: {plan}, trace=same.yaml, seed=0 is the same run as {plan}, trace=generator.yaml, seed=0"
    )


def test_a_sweep_may_grow_and_shrink(servecast: Any, sweep_with: Any, in_process: Any, one_run_a_seed: Path) -> None:
    sweep_with(in_process()).close()
    path = one_run_a_seed / "sweep.yaml"
    path.write_text(path.read_text().replace("[0, 1, 2, 3]", "[1, 2, 7]"))
    outcome = servecast("sweep", "sweep.yaml", "--out", "out", "--workers", 1)
    assert outcome.out.startswith("3 of 3 runs done (2 of them earlier), 0 failed")
    assert outcome.err == "left out of the table: 2 runs in the ledger that sweep.yaml no longer names\n"
    table = csv.DictReader((one_run_a_seed / "out" / "sweep.csv").read_text().splitlines())
    assert [row["seed"] for row in table] == ["1", "2", "7"]


# -- what changes on the way ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "old", "new", "what"),
    [
        ("plan.yaml", "replicas: 2", "replicas: 3", "the plan"),
        ("plan.yaml", "h100", "card.yaml", "the plan, a model, hardware or engine card of the plan"),
        ("generator.yaml", "mean: 40", "mean: 41", "the trace"),
        ("slo.yaml", "90%", "95%", "the SLO"),
    ],
)
def test_inputs_that_change_between_two_sittings(
    servecast: Any, sweep_with: Any, in_process: Any, one_run_a_seed: Path, file: str, old: str, new: str, what: str
) -> None:
    folder = one_run_a_seed
    (folder / "card.yaml").write_text(CARD)
    sweep_with(in_process()).close()
    before = sorted((folder / "out").rglob("*"))
    path = folder / file
    path.write_text(path.read_text().replace(old, new))
    outcome = servecast("sweep", "sweep.yaml", "--out", "out", "--workers", 1)
    assert outcome.code == 2
    assert f"changed since the sweep began: {what}; expected the same inputs to the end" in outcome.err
    assert sorted((folder / "out").rglob("*")) == before
    path.write_text(path.read_text().replace(new, old))
    assert servecast("sweep", "sweep.yaml", "--out", "out").code == 0


def test_a_card_that_changes_mid_sweep(sweep_with: Any, in_process: Any, one_run_a_seed: Path) -> None:
    """The plan's text stays the same: only the worker, which reads the card, can see it."""
    (one_run_a_seed / "card.yaml").write_text(CARD)
    plan = one_run_a_seed / "plan.yaml"
    plan.write_text(plan.read_text().replace("h100", "card.yaml"))

    class Meddling(in_process):  # type: ignore[misc]
        def wait(self) -> Any:
            if len(self.attempts) == 2:
                (one_run_a_seed / "card.yaml").write_text(CARD.replace(BANDWIDTH, f"{BANDWIDTH}1"))
            return super().wait()

    with pytest.raises(InputError, match="seed=2: changed since the sweep began: a model, hardware or engine card"):
        sweep_with(Meddling())
    (one_run_a_seed / "card.yaml").write_text(CARD)
    rest = in_process()
    assert statuses(sweep_with(rest)) == [("done", 1, "")] * 4 and rest.attempts == [2, 3]


def test_a_trace_that_changes_under_a_new_worker(sweep_with: Any, one_run_a_seed: Path) -> None:
    class Meddling(LocalExecutor):
        def submit(self, job: Any) -> None:
            path = one_run_a_seed / "generator.yaml"
            path.write_text(path.read_text().replace("mean: 40", "mean: 41"))
            super().submit(job)

    executor = Meddling(1)
    with pytest.raises(InputError, match="seed=0: changed since the sweep began: the trace"):
        sweep_with(executor)
    executor.close()


# -- full disk, bad flags --------------------------------------------------------------------------------------------


def test_a_full_disk(sweep_with: Any, in_process: Any, one_run_a_seed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, room = os.replace, 2

    def full(*paths: Any) -> None:
        nonlocal room
        room -= 1
        if room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(*paths)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        with pytest.raises(InputError, match=r"report.json: cannot be written \(No space left on device\)"):
            sweep_with(in_process())
    reports = list((one_run_a_seed / "out" / "runs").glob("*/*"))
    assert len(reports) == 2 and all(json.loads(path.read_text()) for path in reports)
    rest = in_process()
    assert statuses(sweep_with(rest)) == [("done", 1, "")] * 4 and rest.attempts == [2, 3]


def test_ctrl_c_keeps_what_is_finished(
    servecast: Any, sweep_with: Any, in_process: Any, one_run_a_seed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = in_process(slots=2, fates={2: [KeyboardInterrupt()]})
    monkeypatch.setattr("servecast.planner.sweep.commands._executor", lambda *_: executor)
    outcome = servecast("sweep", "sweep.yaml", "--out", "out")
    assert outcome.code == 2
    told = "stopped: 2 of 4 runs have ended and are kept in out; the same command goes on from there"
    assert outcome.err == f"{told}\nservecast: interrupted\n"
    rest = in_process()
    assert statuses(sweep_with(rest)) == [("done", 1, "")] * 4 and rest.attempts == [2, 3]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep.yaml"], "the following arguments are required: --out"),
        (["sweep.yaml", "--out", "o", "--workers", "0"], "--workers: 0; expected at least 1"),
        (["sweep.yaml", "--out", "o", "--retries", "-1"], "--retries: -1; expected 0 or more"),
        (["sweep.yaml", "--out", "o", "--executor", "rya"], "did you mean 'ray'?"),
        (["swep.yaml", "--out", "o"], "swep.yaml: no such file; expected a readable file; did you mean 'sweep.yaml'?"),
        (["sweep.yaml", "--out", "plan.yaml/x"], "plan.yaml/x: cannot be written"),
        (["no-trace.yaml", "--out", "o"], "gone.csv: no such file"),
    ],
)
def test_a_bad_command(servecast: Any, folder: Path, words: list[str], message: str) -> None:
    (folder / "no-trace.yaml").write_text("base: {plan: plan.yaml, trace: gone.csv}\n")
    outcome = servecast("sweep", *words)
    assert outcome.code == 2 and message in outcome.err and "Traceback" not in outcome.err
    assert not (folder / "o").exists()
