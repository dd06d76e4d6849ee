"""`servecast profile` on a CPU: everything that the cost model asks for is measured, and a killed run goes on."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest
import torch

from servecast.cli import main
from servecast.configs.catalog import find_hardware, find_model
from servecast.configs.model import Parallelism
from servecast.configs.plan import Plan, load_plan
from servecast.costmodels.measured import TableTimes
from servecast.costmodels.operators import Collective
from servecast.costmodels.roofline import RooflineTimes
from servecast.costmodels.shapes import stage_operators
from servecast.costmodels.tablefile import load_tables
from servecast.errors import InputError
from servecast.profiling.host import Pace, fitted
from servecast.profiling.operators import Operators, truncated
from servecast.profiling.profile import Profile, Task, profile
from servecast.real_backend.model import Model

quiet = [].append


def task(files, tmp_path, config=None, **changes) -> Task:
    model, grid = files(config or files.dense)
    return dataclasses.replace(Task(str(model), "cpu", tmp_path / "out", budget=120.0, grid=grid), **changes)


@pytest.fixture
def short(monkeypatch):
    """One pass through the grid and no refinement."""
    monkeypatch.setattr("servecast.profiling.profile._PASSES", {"cpu": 1})
    monkeypatch.setattr("servecast.profiling.profile.next_points", lambda journal: None)


@pytest.mark.parametrize("kind", ["dense", "experts"])
@pytest.mark.parametrize("tp", [1, 2])
def test_no_operator_of_the_model_is_left_to_the_roofline(files, tmp_path, short, kind, tp):
    job = task(files, tmp_path, getattr(files, kind), tp=tp)
    summary = profile(job, quiet)
    assert not summary["skipped"]
    card, parallel = find_model(job.model), Parallelism(tp)
    hardware = find_hardware(str(job.out / "hardware.yaml"))
    times = TableTimes(
        load_tables(job.out / "tables"), card, parallel, RooflineTimes(hardware), routing="any", gpus_per_node=1
    )
    stage = stage_operators(card, parallel, 0)
    messages = {
        op.name for op in (*stage.tokens, *stage.sequences, *(op for g in stage.layers for op in g.rows))
        if isinstance(op, Collective)
    }  # fmt: skip
    origins = times.origins([stage])
    assert {name for name, origin in origins.items() if origin != "measured"} == messages
    assert bool(messages) is (tp > 1)


def test_what_is_written_can_be_read(files, tmp_path, short, capsys):
    model, grid = files()
    out = tmp_path / "out"
    words = ["profile", "--device", "cpu", "--model", str(model), "--grid", str(grid), "--out", str(out)]
    assert main([*words, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["host"]["seconds"] >= 0 and summary["ceilings"]["copy_bytes_per_s"] > 0
    assert len(summary["closure"]) == 4
    tables = load_tables(out / "tables")
    assert tables.provenance.software["torch"] == torch.__version__
    assert tables.provenance.model.name == "small"
    decode = tables.get("decode_attention")
    assert {(b, c) for b, c in zip(decode.columns["batch"], decode.columns["context"], strict=True)} == {
        (b, c) for b in (1, 2, 4) for c in (1, 8, 64)
    }
    assert main(words) == 0
    assert "servecast simulate --plan" in capsys.readouterr().out
    again = json.loads((out / "profile.json").read_text())
    assert again["points"] == summary["points"]  # nothing was left to measure


def test_a_killed_profile_goes_on_and_loses_nothing(files, tmp_path, short, monkeypatch):
    job = task(files, tmp_path)
    measure, made = Profile.measure, []

    def dies(self, point, calls):
        if len(made) == 20:
            raise KeyboardInterrupt
        made.append(point)
        measure(self, point, calls)

    monkeypatch.setattr(Profile, "measure", dies)
    said = []
    with pytest.raises(KeyboardInterrupt):
        profile(job, said.append)
    assert "goes on from here" in said[0] and load_tables(job.out / "tables").kinds
    first = json.loads((job.out / "profile.json").read_text())
    monkeypatch.setattr(
        Profile, "measure", lambda self, point, calls: (made.append(point), measure(self, point, calls))
    )
    second = profile(job, quiet)
    assert second["points"] > first["points"]
    assert len({point.key for point in made}) == len(made)  # nothing twice
    assert profile(dataclasses.replace(job, budget=0.0), quiet)["points"] == second["points"]


def gpu_without_memory():
    raise torch.OutOfMemoryError


def cpu_without_memory():
    torch.empty(1 << 60)


@pytest.mark.parametrize("runs_out", [gpu_without_memory, cpu_without_memory])
def test_a_point_that_does_not_fit_is_skipped_and_said(files, tmp_path, short, monkeypatch, runs_out):
    job = task(files, tmp_path)
    calls = Operators.calls

    def tight(self, point):
        if point.kind == "layer" and point.keys["tokens"] == 16:
            runs_out()
        return calls(self, point)

    monkeypatch.setattr(Operators, "calls", tight)
    said = []
    summary = profile(job, said.append)
    assert len(summary["skipped"]) == len(said) == 8  # the operators that run for every token
    assert all("tokens=16: out of memory" in text for text in said)
    assert load_tables(job.out / "tables").get("layer").columns["tokens"].max() == 4


def test_another_error_is_not_taken_for_one_of_memory(files, tmp_path, short, monkeypatch):
    def broken(self, point):
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(Operators, "calls", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        profile(task(files, tmp_path), quiet)


def test_a_call_that_needs_more_cache_than_there_is(files):
    model, grid = files()
    from servecast.profiling.grids import load_grid
    from servecast.profiling.operators import DoesNotFit

    small = Model(find_model(str(model)), device="cpu", num_blocks=4, block_size=16)
    operators = Operators(small, load_grid("cpu", grid), 1)
    operators.batch([], [63])
    with pytest.raises(DoesNotFit, match="4 KV blocks of 16 tokens"):
        operators.batch([], [64])


def test_a_truncated_card_keeps_every_kind_of_layer(files):
    model, _ = files({**files.experts, "num_hidden_layers": 12, "mlp_only_layers": [7]})
    card = find_model(str(model))
    small = truncated(card, cache_bytes=100)
    assert set(small.order) == {0, 1} and small.layers == 8
    assert sum(group.count for group in small.groups) == small.layers
    assert truncated(card, cache_bytes=1 << 30).layers == 12


def test_power_that_cannot_be_measured_is_said_and_left_out(files, tmp_path, short):
    said = []
    job = task(files, tmp_path, with_power=True)
    profile(job, said.append)
    assert "no power in the tables" in said[0]
    assert load_tables(job.out / "tables").get("layer").watts is None


def test_host_time_is_a_line_over_the_sequences():
    assert fitted([Pace(1, 11.0, 10.0), Pace(11, 23.0, 20.0)]) == pytest.approx((0.8, 0.2))
    assert fitted([Pace(1, 12.0, 10.0), Pace(11, 21.0, 20.0)]) == pytest.approx((1.5, 0.0))  # never falls
    assert fitted([Pace(4, 12.0, 10.0)]) == (2.0, 0.0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "cuda"], "--model: missing"),
        (["--device", "cuda", "--model", "llama-3.1-8b"], "--device: cuda, and torch"),
        (["--device", "cpu", "--model", "llama-3.1"], "did you mean 'llama-3.1-"),
        (["--device", "cpu", "--model", "opt-13b"], "of another kind than Llama's"),
        (["--device", "cpu", "--budget", "-1"], "--budget: -1; expected minutes"),
        (["--device", "cpu", "--budget", "0"], "nothing measured in the time given"),
        (["--device", "cpu", "--tp", "3"], "tensor_parallel_size"),
        (["--device", "cpu", "--kv-cache-dtype", "int4"], "--kv-cache-dtype: 'int4'"),
        (["--device", "cpu", "--grid", "nowhere.yaml"], "nowhere.yaml: no such file"),
    ],
)
def test_what_cannot_be_profiled_is_said_in_one_line(tmp_path, capsys, words, message):
    if torch.cuda.is_available() and "torch" in message:
        pytest.skip("there is a GPU")
    code = main(["profile", *words, "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert code == 2 and message in error and error.count("\n") == 1


def test_without_torch_the_command_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["profile", "--device", "cpu", "--out", str(tmp_path / "out")]) == 2
    assert "servecast[gpu]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(
    "cost" not in {f.name for f in dataclasses.fields(Plan)}, reason="plans cannot name a table set yet"
)
def test_simulate_uses_the_tables_at_once(files, tmp_path, short):
    job = task(files, tmp_path)
    profile(job, quiet)
    from servecast.sim.deploy import deploy

    cost = deploy(load_plan(str(job.out / "plan.yaml")))[0].cost
    assert cost.label == "measured"
    with pytest.raises(InputError, match="begun with tp = 1, where this run has 2; expected another folder"):
        profile(dataclasses.replace(job, tp=2), quiet)
