"""A run that is killed and goes on from its last checkpoint leaves the bytes of one that was not."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pytest

from servecast import InputError
from servecast.configs.plan import plan_from
from servecast.sim.checkpoint import Checkpoint
from servecast.sim.report.report import build_report
from servecast.sim.report.write import write_results
from servecast.sim.run import run
from servecast.traces.columns import PrefixBlocks
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable

POOL = {"name": "chat", "hardware": "h100", "replicas": 2, "num_gpu_blocks_override": 1200, "max_model_len": 4096}
PLANS = {
    "v1": {"model": "llama-3.1-8b", "engine": "vllm-0.19", "pools": [POOL], "router": "random"},
    "v0, impatient": {
        "model": "llama-3.1-8b", "engine": "vllm-0.6", "pools": [{**POOL, "queue": "sjf"}],
        "router": {"name": "power_of_two", "view_age": 0.5}, "clients": {"timeout": 20.0, "retries": 1},
        "predictor": {"name": "oracle", "sigma": 0.5},
    },
    "stages": {
        "model": "llama-3.1-8b", "engine": "vllm-0.19", "pools": [{**POOL, "pipeline_parallel_size": 2}],
        "router": "least_outstanding",
    },
    "closed loop": {
        "model": "llama-3.1-8b", "engine": "sarathi-serve", "pools": [POOL],
        "clients": {"closed_loop": {"users": 60, "think_time": 0.2}},
    },
}  # fmt: skip


def workload(n=3000, rate=25.0):
    s = Stream(1, "checkpoint")
    prompts = 64 * (1 + s.integers(n, 20))
    rows = [
        [(i % 40) * 100 + j if j < 5 else 10**6 + i * 100 + j for j in range(p // 64)] for i, p in enumerate(prompts)
    ]
    return RequestTable(
        np.cumsum(s.exponential(n)) / rate, prompts, 1 + s.integers(n, 300), blocks=PrefixBlocks.of(64, "floor", rows)
    )


def files(result, folder):
    folder.mkdir(exist_ok=True)
    write_results(result, build_report(result), folder)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


class Killed(Exception):
    pass


class Death:
    """Comes at the `after`th look."""

    def __init__(self, after):
        self.left = after

    def __call__(self, *_):
        self.left -= 1
        if not self.left:
            raise Killed


@pytest.mark.parametrize("name", PLANS)
def test_a_run_in_many_lives_leaves_the_same_bytes(name, tmp_path):
    """Each life saves at once and dies a little later, most of them with rows written that its checkpoint lacks."""
    table, plan = workload(), plan_from(PLANS[name])
    whole = files(run(table, plan), tmp_path / "whole")
    checkpoint = Checkpoint(tmp_path / "state", {"trace": "t"}, every=0.0)
    lives, result = 0, None
    while result is None:
        lives += 1
        with suppress(Killed):
            result = run(table, plan, checkpoint=checkpoint, progress=Death(2))
    assert lives > 3
    assert files(result, tmp_path / "parts") == whole


def test_columns_in_files_are_columns_in_memory(tmp_path):
    table, plan = workload(800), plan_from(PLANS["v1"])
    whole = files(run(table, plan), tmp_path / "whole")
    spooled = run(table, plan, checkpoint=Checkpoint(tmp_path / "state", {}, every=1e9))
    assert files(spooled, tmp_path / "spooled") == whole


def test_a_checkpoint_of_other_inputs_is_refused(tmp_path):
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "identity.json").write_text(json.dumps({"seed": 1}))
    with pytest.raises(InputError, match="seed = 1, not 2"):
        Checkpoint(folder, {"seed": 2}, 1.0).exists()
    (folder / "identity.json").write_text("{")
    with pytest.raises(InputError, match="not a checkpoint"):
        Checkpoint(folder, {"seed": 2}, 1.0).exists()


class Evil:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize("forged", [pickle.dumps(Evil()), pickle.dumps(subprocess.Popen), b"", b"junk"])
def test_a_forged_state_runs_nothing(tmp_path, forged):
    (tmp_path / "state").write_bytes(forged)
    with pytest.raises(InputError, match="cannot be read"):
        Checkpoint(tmp_path, {}, 1.0).load({}, set())


def simulate(trace, out, *flags):
    command = [sys.executable, "-m", "servecast", "simulate", "--trace", str(trace), "--plan", "bench-1"]
    return subprocess.Popen(
        [*command, "--out", str(out), *flags], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def test_kill_9_at_random_points(tmp_path):
    """The command is killed again and again without warning, and then left alone."""
    from servecast.traces.write import write

    trace = tmp_path / "trace.jsonl.gz"
    write(workload(12_000, 12.0), trace)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert simulate(trace, whole).wait() == 0
    state = parts / ".checkpoint/state"

    def saved():
        return state.stat().st_mtime_ns if state.exists() else 0

    went_on = 0
    for k in range(30):
        process = simulate(trace, parts, "--checkpoint", "0.05")
        if k < 5:
            before = saved()
            while process.poll() is None and saved() == before:
                time.sleep(0.01)
            time.sleep(0.2 * Stream(k, "kill").next())
            process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        went_on += "going on from the checkpoint" in errors
        if process.returncode == 0:
            break
    assert process.returncode == 0, errors
    assert went_on, "it was never killed in the middle: a longer trace is needed"
    names = sorted(p.name for p in whole.iterdir())
    assert sorted(p.name for p in parts.iterdir()) == names
    for name in names:
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
